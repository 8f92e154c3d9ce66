"""Retention: whole closed segments whose records are all old enough are deleted, and a record of that stays.

Order: the records `log.prune`, one per segment, are on the medium before the first file is deleted, and files go oldest
first. So whatever the moment of a crash, what is missing has its record; the next pruning deletes what is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from steerguard.audit.evidence.layout import LogFiles, logs_in, sealed_name, segment_name, slot_keys_name
from steerguard.audit.log import AuditLog
from steerguard.audit.records.events import LogPrune
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.upkeep.hold import maintenance, require_no_hold, stated_reason
from steerguard.audit.upkeep.retention_survey import LogFacts, PrunedBefore, SegmentFacts, Survey, survey
from steerguard.errors import AuditError, AuditSinkError

RETENTION_DAYS: Final = 400
FLOOR_DAYS: Final = 183
"""Six months, which the EU AI Act asks logs to be kept at least (Articles 19 and 26(6))."""

MAX_DAYS: Final = 100_000
"""Longer than anybody keeps a log, and a date that a calendar has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedSegment:
    """One segment that was deleted, or would be."""

    log: str
    segment: int
    records: int
    bytes: int
    first_t: str
    last_t: str
    whole: bool
    """Whether nothing of its log is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning:
    """What pruning did, or would do."""

    directory: Path
    older_than_days: int
    cutoff: str
    """Segments whose records are all older were pruned."""
    dry_run: bool
    segments: tuple[PrunedSegment, ...]
    finished: tuple[str, ...]
    """Files that an interrupted pruning had left, by name."""
    kept: tuple[tuple[str, str], ...]
    """Logs that keep segments which might have gone, and why."""


def prune(
    directory: Path,
    *,
    older_than_days: int = RETENTION_DAYS,
    allow_short: str | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
    checkpoints: CheckpointSettings = CheckpointSettings(),  # noqa: B008 - immutable
) -> Pruning:
    """Delete the whole closed segments of a directory whose records are all older than so many days.

    A log is pruned from its first segment on, as far as it verifies. Encrypted content and its wrapped keys go with
    their segment, bytes that recovery set aside with their log. A log in use keeps the segment it writes to.
    Records of pruning, and the logs that hold them, stay for as long as verification needs them.
    Ages are those of the records' wall clock. A segment is as old as the newest record up to its end, so that a clock
    that was set back makes nothing old; a log with a record that lies in the future is named among those that are kept.

    Args:
        directory: of the logs; processes may be writing to it.
        older_than_days: 1 to 100,000.
        allow_short: why fewer than 183 days are allowed; recorded.
        dry_run: change nothing and return what would be done.
        now: the time to count back from, of any time zone; by default the present.
        checkpoints: who signs the log that the records go to, under which name, and where its checkpoints go besides.

    Raises:
        LegalHoldError: a legal hold is in force.
        AuditError: fewer than 183 days without a reason, or no log can be opened.
        AuditSinkError: it could not be recorded, or a file could not be deleted; the next call goes on.
        AuditVerificationError: the directory cannot be read.
    """
    allowed = _allowance(older_than_days, allow_short)
    present = datetime.now(UTC) if now is None else now.astimezone(UTC)
    cutoff = _timestamp(present - timedelta(days=older_than_days))
    with maintenance(directory):
        require_no_hold(directory)
        found = survey(directory)
        left_over = _left_over(directory, found)
        chosen, kept = _chosen(found, cutoff, _timestamp(present))
        pruned = tuple(_described(directory, segment) for segment in chosen)
        if not dry_run:
            _remove(directory, left_over)
            if chosen:
                with AuditLog.open(directory, content="none", checkpoints=checkpoints) as log:
                    for segment, told in zip(chosen, pruned, strict=True):
                        log.record(_tombstone(segment, told, older_than_days, allowed))
                    for segment in chosen:
                        _remove(directory, _files_of(directory, segment.log, segment.number, whole=segment.whole))
        return Pruning(
            directory=directory,
            older_than_days=older_than_days,
            cutoff=cutoff,
            dry_run=dry_run,
            segments=pruned,
            finished=tuple(path.name for path in left_over),
            kept=kept,
        )


def _timestamp(time: datetime) -> str:
    """Return a time as records write it; timestamps are compared as text, so the year has its four digits."""
    return f"{time.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _allowance(days: int, reason: str | None) -> str | None:
    if not 1 <= days <= MAX_DAYS:
        raise AuditError(
            "Logs are kept for at least a day, and not for longer than a calendar reaches.",
            where="older_than_days",
            expected=f"1 to {MAX_DAYS}",
            found=days,
            next_step="To keep logs for good, do not prune their directory.",
        )
    if days >= FLOOR_DAYS:
        return None
    if reason is None:
        raise AuditError(
            "Logs are kept for at least six months.",
            where="older_than_days",
            expected=f"{FLOOR_DAYS} or more",
            found=days,
            next_step="Where a shorter time is lawful, state why: --allow-short REASON. The reason is recorded.",
        )
    return stated_reason(reason)


def _chosen(found: Survey, cutoff: str, present: str) -> tuple[tuple[SegmentFacts, ...], tuple[tuple[str, str], ...]]:
    """Return the segments to delete and the logs that keep old ones: what stays must still verify.

    It begins with everything that is old enough and takes back what something that stays needs, until nothing does.
    """
    gone = {(one.log, number) for one in found.pruned for number in range(one.first, one.last + 1)}
    limits = {log.files.log: _old_enough(log, cutoff) for log in found.logs}
    old = dict(limits)
    while True:
        staying = [
            segment
            for log in found.logs
            for position, segment in enumerate(log.segments)
            if position >= limits[log.files.log] and (segment.log, segment.number) not in gone
        ]
        staying += [segment for log in found.logs for segment in log.unfinished]
        needed = {name for segment in staying for name in segment.names | segment.tombstones}
        # A log that is there stays in part, or its last segments get records of pruning now, which go on from the earlier ones.
        needed |= {log.files.log for log in found.logs}
        changed = False
        for log in found.logs:
            for position, segment in enumerate(log.segments[: limits[log.files.log]]):
                if segment.tombstones & needed:
                    limits[log.files.log], changed = position, True
                    break
        if not changed:
            break
    chosen = tuple(
        segment
        for log in found.logs
        for segment in log.segments[: limits[log.files.log]]
        if (segment.log, segment.number) not in gone
    )
    kept = []
    for log in found.logs:
        if limits[log.files.log] < old[log.files.log]:
            kept.append((log.files.log, "it says what was pruned of logs that are still there or named"))
        elif log.report.first_bad is not None:
            kept.append((log.files.log, "it does not verify: run `steerguard audit verify`"))
        elif any(segment.newest_t > present for segment in log.segments):
            kept.append((log.files.log, "a record of it lies in the future: a clock is or was wrong"))
    return chosen, tuple(kept)


def _old_enough(log: LogFacts, cutoff: str) -> int:
    """Return how many segments from the first on are old enough."""
    for position, segment in enumerate(log.segments):
        if segment.newest_t >= cutoff:
            return position
    return len(log.segments)


def _described(directory: Path, segment: SegmentFacts) -> PrunedSegment:
    path = directory / segment_name(segment.log, segment.number)
    return PrunedSegment(
        log=segment.log,
        segment=segment.number,
        records=segment.records,
        bytes=path.stat().st_size,
        first_t=segment.first_t,
        last_t=segment.last_t,
        whole=segment.whole,
    )


def _tombstone(segment: SegmentFacts, told: PrunedSegment, days: int, allowed: str | None) -> LogPrune:
    return LogPrune(
        pruned=segment.log,
        segments=(segment.number, segment.number),
        records=(segment.first_seq, segment.last_seq),
        bytes=told.bytes,
        root=segment.root,
        first_t=segment.first_t,
        last_t=segment.last_t,
        whole=segment.whole,
        older_than_days=days,
        allowed=allowed,
    )


def _left_over(directory: Path, found: Survey) -> list[Path]:
    """Return the files that an interrupted pruning recorded as deleted and did not delete."""
    # What does not verify may be something else than what was pruned, and stays: somebody must look at it.
    bad = {log.files.log: log.report.first_bad.seq for log in found.logs if log.report.first_bad is not None}
    left: list[Path] = []
    for files in logs_in(directory):
        for one in found.pruned:
            if one.log == files.log and not bad.get(one.log, one.last_seq + 1) <= one.last_seq:
                left += _among(files, one)
    return list(dict.fromkeys(left))


def _among(files: LogFiles, pruned: PrunedBefore) -> Iterable[Path]:
    for number in range(pruned.first, pruned.last + 1):
        names = _names_of(files.log, number)
        yield from (path for name in names for path in files.paths if path.name == name)
    if pruned.whole:
        yield from files.paths


def _names_of(log: str, number: int) -> tuple[str, ...]:
    return segment_name(log, number), slot_keys_name(log, number), sealed_name(log, number)


def _files_of(directory: Path, log: str, number: int, *, whole: bool) -> Sequence[Path]:
    own = [directory / name for name in _names_of(log, number)]
    if whole:
        own += [path for files in logs_in(directory) if files.log == log for path in files.paths if path not in own]
    return own


def _remove(directory: Path, paths: Iterable[Path]) -> None:
    """Delete files in this order and make that durable."""
    try:
        for path in paths:
            path.unlink(missing_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AuditSinkError(
            "A file that is recorded as pruned could not be deleted.",
            where=error.filename or directory,
            found=error.strerror,
            next_step="Give this process the right to delete files of the directory, and prune again.",
        ) from error
