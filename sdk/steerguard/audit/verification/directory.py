"""Verifies the logs of a directory as a set: which are there, which were pruned, and which are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from steerguard.audit.evidence.layout import LogFiles, logs_in
from steerguard.audit.verification.deliver import OnRecord, deliver
from steerguard.audit.verification.keys import KeyBook
from steerguard.audit.verification.links import Links, OutsideHead, outside_heads
from steerguard.audit.verification.log import Verified, verify_files
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verification.report import (
    DirectoryReport,
    Fault,
    LogReport,
    MissingLog,
    PrunedRange,
    unanchored_prune,
)
from steerguard.audit.verification.tombstones import Tombstone, Tombstones

OTHERS_MAY_EXPLAIN: Final[frozenset[Fault]] = frozenset({"pruned", "unpinned"})
"""Faults that what other logs say of pruned segments and of keys may take back."""


@dataclass(frozen=True, slots=True)
class _Settings:
    pins: Pins
    strict: bool
    tombstones: Tombstones
    keys: KeyBook
    links: Links


ATTEMPTS: Final = 3
"""How often a directory that looks broken is read when files appeared or vanished meanwhile."""


def verify_set(directory: Path, pins: Pins, *, strict: bool, on_record: OnRecord | None) -> DirectoryReport:
    """Verify the logs of a directory, and look for logs that should be there.

    Records are handed over per log, oldest log first, once all logs were verified.

    Raises:
        AuditVerificationError: the directory cannot be read, or what verified changed before it was handed over.
    """
    for attempt in range(ATTEMPTS):
        logs = logs_in(directory)
        report = _report_on(directory, logs, pins, strict=strict)
        if report.status == "ok" or attempt == ATTEMPTS - 1 or logs_in(directory) == logs:
            break
    if on_record is not None:
        files = {one.log: one for one in logs}
        for log in report.logs:
            if log.records:
                deliver(files[log.log], log, on_record)
    return report


def _report_on(directory: Path, logs: Sequence[LogFiles], pins: Pins, *, strict: bool) -> DirectoryReport:
    settings = _Settings(pins, strict, Tombstones(), KeyBook(pins.keys), Links())
    there = [files for files in logs if files.segments]
    found = _verified(there, settings)
    verified = [found[files.log] for files in there]
    missing, pruned = _absent(directory, logs, verified, settings)
    return DirectoryReport(
        logs=tuple(one.report for one in verified),
        missing=tuple(missing),
        pruned=tuple(pruned),
        warnings=tuple(f"{one.log} is not there, and {unanchored_prune(one)}" for one in pruned if not one.anchored),
    )


def tombstones_of(logs: Sequence[LogFiles], pins: Pins, *, strict: bool = False) -> tuple[Tombstones, KeyBook]:
    """Verify logs for what they say about pruned segments and about keys."""
    settings = _Settings(pins, strict, Tombstones(), KeyBook(pins.keys), Links())
    _verified([files for files in logs if files.segments], settings)
    return settings.tombstones, settings.keys


def _verified(logs: Sequence[LogFiles], settings: _Settings) -> dict[str, Verified]:
    """Verify each log; again when another one said that it was pruned, introduced its key, or knows its records."""
    found: dict[str, Verified] = {}
    heads: dict[str, tuple[OutsideHead, ...]] = {}
    # The newest first: what logs say of others, they mostly say of older ones.
    newest_first = sorted(logs, key=lambda files: files.log, reverse=True)
    waiting = newest_first
    while waiting:
        trusted, known = settings.keys.trusted, settings.keys.known
        new = False
        for files in waiting:
            heads[files.log] = settings.links.of(files.log)
            found[files.log] = verify_files(
                files,
                settings.pins,
                strict=settings.strict,
                tombstones=settings.tombstones,
                keys=settings.keys,
                links=heads[files.log],
            )
            new = settings.tombstones.add(_counted(found[files.log], settings)) or new
            new = settings.links.add(found[files.log].links) or new
        new = new or trusted != settings.keys.trusted or known != settings.keys.known
        waiting = [
            files
            for files in newest_first
            if new and (_waits(files, found[files.log], settings) or heads[files.log] != settings.links.of(files.log))
        ]
    return found


def _waits(files: LogFiles, verified: Verified, settings: _Settings) -> bool:
    """Whether what other logs say may change what was found."""
    bad = verified.report.first_bad
    if bad is not None and bad.fault in OTHERS_MAY_EXPLAIN:
        return True
    stated = tuple(one.pruned for one in settings.tombstones.row(files.log))
    return bool(stated) and files.segments[0][0] == 0 and bad is None and not _warned(verified.report)


def _warned(report: LogReport) -> bool:
    return any("log.prune" in warning for warning in report.warnings)


def _counted(verified: Verified, settings: _Settings) -> list[Tombstone]:
    pinned = settings.pins.any
    return [
        one if not pinned or verified.report.pinned else replace(one, pruned=replace(one.pruned, anchored=False))
        for one in verified.tombstones
    ]


def _absent(
    directory: Path, logs: Sequence[LogFiles], verified: Sequence[Verified], settings: _Settings
) -> tuple[list[MissingLog], list[PrunedRange]]:
    """Return the logs that are named and not there, and the ranges of those that were pruned as a whole."""
    named: dict[str, str] = {}
    for files in logs:
        if not files.segments:
            named.setdefault(files.log, f"{files.paths[0].name}, which is left over")
    for one in verified:
        for log, by in one.named.items():
            named.setdefault(log, by)
    for head in settings.pins.heads:
        named.setdefault(head.head.log, "a checkpoint kept elsewhere")
    for log in settings.tombstones.logs:
        named.setdefault(log, "a log.prune record")
    there = {files.log for files in logs if files.segments}
    absent = sorted(log for log in named if log not in there)
    if absent:
        # A log that was made while the directory was listed is no missing one.
        now = {files.log for files in logs_in(directory) if files.segments}
        absent = [log for log in absent if log not in now]
    missing: list[MissingLog] = []
    pruned: list[PrunedRange] = []
    for log in absent:
        row = settings.tombstones.whole(log)
        if row and _fits_heads(log, row, settings):
            pruned.extend(one.pruned for one in row)
        else:
            missing.append(MissingLog(log=log, named_by=named[log]))
    return missing, pruned


def _fits_heads(log: str, row: Sequence[Tombstone], settings: _Settings) -> bool:
    """Whether what others know of the log agrees with the record of pruning as far as they can be compared."""
    end = row[-1].pruned.records[1] + 1
    roots = {one.pruned.records[1] + 1: one.root for one in row}
    return all(
        head.size <= end and roots.get(head.size, head.root) == head.root
        for head in outside_heads(settings.pins.heads_of(log), settings.links.of(log))
    )
