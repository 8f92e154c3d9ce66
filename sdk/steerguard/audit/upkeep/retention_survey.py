"""What pruning must know of a directory of logs: its segments with their times, what they name, and what was pruned."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerguard.audit.evidence.layout import FINISHED_MODE, LogFiles, logs_in
from steerguard.audit.verification.report import LogReport
from steerguard.audit.verify import verify_directory


@dataclass(slots=True, kw_only=True)
class SegmentFacts:
    """One segment whose records verified, as far as they were read."""

    log: str
    number: int
    first_seq: int
    last_seq: int
    first_t: str
    last_t: str
    newest_t: str
    """The latest time that its records and those before them in their log have: the clock may have been set back."""
    root: str = ""
    """Tree hash over the log up to its last record; empty while it is not known that the segment is complete."""
    whole: bool = False
    """Whether the log ends with it."""
    names: set[str] = field(default_factory=set)
    """Logs that its records name as being, or having been, in the directory."""
    tombstones: set[str] = field(default_factory=set)
    """Logs of which its records say that segments were pruned."""

    @property
    def records(self) -> int:
        """How many."""
        return self.last_seq - self.first_seq + 1


@dataclass(frozen=True, slots=True)
class LogFacts:
    """One log."""

    files: LogFiles
    report: LogReport
    segments: tuple[SegmentFacts, ...]
    """Those that are complete and verify, from the first one left."""
    unfinished: tuple[SegmentFacts, ...]
    """The others, as far as their records verify; what these name must stay too."""


@dataclass(frozen=True, slots=True)
class PrunedBefore:
    """What a log.prune record of the directory says was pruned."""

    log: str
    first: int
    last: int
    last_seq: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """A directory as verification found it."""

    logs: tuple[LogFacts, ...]
    """Oldest first."""
    pruned: tuple[PrunedBefore, ...]


def survey(directory: Path) -> Survey:
    """Verify a directory of logs and return what pruning must know of it; reads every record once.

    Raises:
        AuditVerificationError: the directory cannot be read.
    """
    collected = _Collected()
    report = verify_directory(directory, on_record=collected.take)
    reports = {one.log: one for one in report.logs}
    logs = tuple(
        _facts(files, reports[files.log], collected.segments.get(files.log, []))
        for files in logs_in(directory)
        if files.log in reports
    )
    return Survey(logs, tuple(collected.pruned))


class _Collected:
    """Takes every record that verified, in the order of its log."""

    def __init__(self) -> None:
        self.segments: dict[str, list[SegmentFacts]] = {}
        self.pruned: list[PrunedBefore] = []

    def take(self, record: dict[str, Any]) -> None:
        segments = self.segments.setdefault(record["log"], [])
        kind, newest = record["type"], max(record["t"], segments[-1].newest_t if segments else "")
        if kind == "log.rotate" or not segments:
            if segments:
                segments[-1].root = record["root"]
            segments.append(
                SegmentFacts(
                    log=record["log"],
                    number=record["segment"] if kind == "log.rotate" else 0,
                    first_seq=record["seq"],
                    last_seq=record["seq"],
                    first_t=record["t"],
                    last_t=record["t"],
                    newest_t=newest,
                )
            )
        segment = segments[-1]
        segment.last_seq, segment.last_t, segment.newest_t = record["seq"], record["t"], newest
        if kind in _NAMING:
            segment.names |= {name for field in _NAMING[kind] if (name := record[field]) is not None}
        elif kind == "log.prune":
            first, last = record["segments"]
            segment.tombstones.add(record["pruned"])
            self.pruned.append(PrunedBefore(record["pruned"], first, last, record["records"][1], record["whole"]))


_NAMING: Mapping[str, tuple[str, ...]] = {
    "log.open": ("previous", "forked_from"),
    "log.recovered": ("by",),
}


def _facts(files: LogFiles, report: LogReport, segments: list[SegmentFacts]) -> LogFacts:
    if segments and report.closed and not report.in_use and report.first_bad is None:
        segments[-1].root, segments[-1].whole = report.root, True
    bad = None if report.first_bad is None else report.first_bad.seq
    paths = dict(files.segments)
    complete: list[SegmentFacts] = []
    for segment in segments:
        path = paths.get(segment.number)
        verified = bad is None or segment.last_seq < bad
        if not segment.root or path is None or not verified or not _finished(path):
            break
        complete.append(segment)
    return LogFacts(files, report, tuple(complete), tuple(segments[len(complete) :]))


def _finished(path: Path) -> bool:
    try:
        return stat.S_IMODE(path.stat().st_mode) & ~FINISHED_MODE == 0
    except FileNotFoundError:
        return False
