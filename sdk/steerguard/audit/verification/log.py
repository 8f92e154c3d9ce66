"""Verifies one log: its segments, its file of checkpoints and the bytes that recovery set aside."""

from __future__ import annotations

import contextlib
import fcntl
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from steerguard.audit.evidence.layout import LogFiles, segment_name
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.events import RECORDS
from steerguard.audit.verification.fault import FaultError
from steerguard.audit.verification.files import BLOCK_BYTES, LineReader, open_regular
from steerguard.audit.verification.keys import KeyBook, KeysInForce
from steerguard.audit.verification.lines import Place, first_line, first_seq, require_short, require_whole, walk_lines
from steerguard.audit.verification.links import OutsideHead, outside_heads
from steerguard.audit.verification.notes import NoteReader
from steerguard.audit.verification.outcome import end_warnings, outcome, stated_tombstones
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verification.report import FirstBad, LogReport, PrunedRange, unanchored_prune
from steerguard.audit.verification.statements import SegmentRead
from steerguard.audit.verification.tombstones import Tombstone, Tombstones
from steerguard.audit.verification.trail import NoNotes, NoteTrail
from steerguard.audit.verification.walk import Walk
from steerguard.errors import AuditVerificationError

ATTEMPTS: Final = 3
"""How often a log that looks broken and whose files changed meanwhile is read."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A report, and what the log says about other logs."""

    report: LogReport
    named: dict[str, str] = field(default_factory=dict)
    """Other logs that verified records name, and by what."""
    tombstones: tuple[Tombstone, ...] = ()
    links: tuple[tuple[str, OutsideHead], ...] = ()
    """What it says of the records of other logs."""


def verify_files(
    files: LogFiles,
    pins: Pins,
    *,
    strict: bool,
    tombstones: Tombstones,
    keys: KeyBook,
    links: Sequence[OutsideHead] = (),
) -> Verified:
    """Verify one log; read again when it looks broken and its files changed meanwhile: a process was at work on it."""
    heads = outside_heads(pins.heads_of(files.log), links)
    for attempt in range(ATTEMPTS):
        before = _state(files)
        verified = _Reading(files, pins, heads, strict=strict, tombstones=tombstones, keys=keys).run()
        if verified.report.status == "ok" or attempt == ATTEMPTS - 1 or _state(files) == before:
            break
    return verified


def verify_content(content: bytes, pins: Pins, *, log: str | None, strict: bool) -> Verified:
    """Verify the lines of a log that went to a sink of its own: there is no file of checkpoints."""
    book = KeyBook()
    keys = KeysInForce(book)
    heads = tuple(head for head in pins.heads if log is None or head.head.log == log)
    walk = Walk(log, NoteTrail(NoNotes(), log, required=False), keys, heads=outside_heads(heads), strict=strict)
    reader = LineReader(io.BytesIO(content))
    place = Place()
    bad: FirstBad | None = None
    try:
        walk_lines(walk, reader, place)
        require_short(walk, reader)
        walk.finish()
        require_whole(walk, len(reader.tail))
        walk.end(in_use=False)
    except FaultError as fault:
        bad = place.first_bad(fault, checkpoints=None, note_line=None)
    report = outcome(walk, keys, book, bad, pins=pins, torn=len(reader.tail), in_use=False)
    warnings = tuple(end_warnings(walk, report, keys)) if bad is None else ()
    return Verified(replace(report, warnings=(*report.warnings, *warnings)))


class _Reading:
    """One pass over the files of one log."""

    def __init__(
        self,
        files: LogFiles,
        pins: Pins,
        heads: Sequence[OutsideHead],
        *,
        strict: bool,
        tombstones: Tombstones,
        keys: KeyBook,
    ) -> None:
        self._files = files
        self._pins = pins
        self._heads = heads
        self._strict = strict
        self._book = keys
        self._keys = KeysInForce(keys)
        self._row = tombstones.row(files.log)
        self._pruned: tuple[PrunedRange, ...] = ()
        self._place = Place()
        self._torn_bytes = 0
        self._directory = files.segments[0][1].parent if files.segments else None

    def run(self) -> Verified:
        """Read everything; a fault ends it."""
        files = self._files
        bad: FirstBad | None = None
        gaps: tuple[tuple[int, int], ...] = ()
        with contextlib.ExitStack() as stack:
            in_use = _is_locked(files.checkpoints)
            trail = NoteTrail(NoNotes(), files.log)
            walk = self._walk(trail)
            try:
                trail = self._trail(stack)
                walk = self._walk(trail)
                self._segments(walk)
                in_use = in_use or _is_locked(files.checkpoints)
                self._check_end(walk, in_use=in_use)
                self._check_torn_files(walk)
            except FaultError as fault:
                name = None if files.checkpoints is None else files.checkpoints.name
                bad = self._place.first_bad(fault, checkpoints=name, note_line=trail.line)
                gaps = _gaps(fault)
        report = outcome(walk, self._keys, self._book, bad, pins=self._pins, torn=self._torn_bytes, in_use=in_use)
        report = replace(
            report,
            log=files.log,
            pruned=self._pruned,
            gaps=gaps,
            warnings=(*report.warnings, *self._warnings(walk, report)),
        )
        links = tuple(walk.statements.links) if report.status == "ok" else ()
        return Verified(report, dict(walk.statements.named), stated_tombstones(walk, report), links)

    def _walk(self, trail: NoteTrail) -> Walk:
        expected = sorted((one.pruned.records[1] + 1, one.root) for one in self._row)
        return Walk(
            self._files.log,
            trail,
            self._keys,
            heads=self._heads,
            expected=expected,
            strict=self._strict,
            directory=self._directory,
        )

    def _trail(self, stack: contextlib.ExitStack) -> NoteTrail:
        path = self._files.checkpoints
        if path is None:
            return NoteTrail(NoNotes(), self._files.log)
        try:
            file = stack.enter_context(open_regular(path))
        except AuditVerificationError as error:
            raise FaultError("file", 0, None, at="none", detail=str(error.found)) from None
        there = file.seek(0, io.SEEK_END)
        file.seek(0)
        return NoteTrail(NoteReader(file), self._files.log, there=there)

    def _segments(self, walk: Walk) -> None:
        first = True
        for number, path in self._numbers():
            require_whole(walk, self._torn_bytes)
            if number != walk.segment and not first:
                self._place.go_to(path.name)
                raise self._missing_segment(walk, path)
            self._place.go_to(path.name)
            try:
                file = open_regular(path)
            except AuditVerificationError as error:
                raise FaultError("file", walk.seq, None, at="file", detail=str(error.found)) from None
            with file:
                if first and number > 0:
                    self._begin_after_pruning(walk, number, file.read(BLOCK_BYTES))
                    file.seek(0)
                first = False
                walk.segment, walk.segment_start = number, True
                reader = LineReader(file, digest=self._strict)
                behind = path.parent / segment_name(self._files.log, number + 1)
                walk_lines(walk, reader, self._place, behind)
                if behind.exists():
                    # The log went on in a new segment, so this one is complete now.
                    walk_lines(walk, reader, self._place, behind)
            self._torn_bytes = len(reader.tail)
            require_short(walk, reader)
            walk.statements.previous = SegmentRead(path.name, reader.size, reader.digest)
            walk.segment = number + 1
        if first:
            raise FaultError("segment", 0, None, at="end", detail="no segment is left")

    def _numbers(self) -> Iterator[tuple[int, Path]]:
        """Yield the segments, and those that appear meanwhile."""
        number, directory = 0, None
        for number, path in self._files.segments:
            directory = path.parent
            yield number, path
        while directory is not None:
            number += 1
            path = directory / segment_name(self._files.log, number)
            if not path.exists():
                return
            yield number, path

    def _missing_segment(self, walk: Walk, path: Path) -> FaultError:
        until = None
        first = first_seq(first_line(path) or b"")
        if first is not None and first > walk.seq:
            until = first - 1
        return FaultError("segment", walk.seq, until, at="file", detail=f"segment {walk.segment} is missing")

    def _begin_after_pruning(self, walk: Walk, number: int, block: bytes) -> None:
        line = block.split(b"\n", 1)[0]
        try:
            record = RECORDS["log.rotate"].model_validate_json(line).model_dump()
            frontier = Frontier(record["size"], [bytes.fromhex(peak) for peak in record["peaks"]])
        except (ValidationError, ValueError):
            raise FaultError("order", 0, 0, at="file", detail="the first segment left has no log.rotate") from None
        size = frontier.size
        covering = [one for one in self._row if one.pruned.segments[0] < number]
        reach = covering[-1].pruned if covering else None
        if reach is None or reach.segments[1] < number - 1 or size == 0:
            raise FaultError("pruned", 0, max(size - 1, 0), at="file", detail=f"segments 0 to {number - 1}")
        exact = reach.segments[1] == number - 1
        if frontier.root().hex() != record["root"] or (exact and reach.records[1] + 1 != size):
            raise FaultError("pruned", 0, size - 1, at="file", detail=f"record {size} is the first that is left")
        if exact and covering[-1].root != frontier.root():
            raise FaultError("tombstone", 0, size - 1, at="file")
        roots = {one.pruned.records[1] + 1: one.root for one in covering}
        for head in self._heads:
            if roots.get(head.size, head.root) != head.root:
                raise FaultError("head", 0, size - 1, at="file", detail=head.words)
        walk.begin_at(size, frontier.peaks, prev=record["prev"], segment=number)
        self._pruned = tuple(one.pruned for one in covering)

    def _check_end(self, walk: Walk, *, in_use: bool) -> None:
        walk.finish()
        require_whole(walk, 0 if in_use else self._torn_bytes)
        walk.end(in_use=in_use)
        if self._files.checkpoints is None and self._keys.signs:
            raise FaultError(
                "note_missing", 0, max(walk.seq - 1, 0), at="none", detail="the file of checkpoints is missing"
            )

    def _check_torn_files(self, walk: Walk) -> None:
        by_name = {path.name: path for path in self._files.torn}
        for stated in walk.statements.torn:
            path = by_name.get(stated.name)
            found = None
            if path is not None:
                with contextlib.suppress(AuditVerificationError), open_regular(path) as file:
                    digest = sha256()
                    while block := file.read(BLOCK_BYTES):
                        digest.update(block)
                    found = digest.hexdigest()
            if found != stated.digest:
                self._place.file = stated.name
                raise FaultError("torn_file", stated.seq, stated.seq, at="file", detail=stated.name)

    def _warnings(self, walk: Walk, report: LogReport) -> Iterator[str]:
        if report.first_bad is None:
            yield from end_warnings(walk, report, self._keys)
        for one in self._pruned:
            if not one.anchored:
                yield unanchored_prune(one)
        if self._row and self._files.segments and self._row[-1].pruned.segments[1] >= self._files.segments[0][0]:
            yield "segments that a log.prune record names are still there: pruning was interrupted, or they were put back"


def _gaps(fault: FaultError) -> tuple[tuple[int, int], ...]:
    if fault.fault in {"segment", "pruned", "truncated"} and fault.until is not None:
        return ((fault.seq, fault.until),)
    return ()


def _state(files: LogFiles) -> list[tuple[int, int, int] | None]:
    """Return what changes when a process writes to the log."""
    paths = [path for _, path in files.segments[-1:]]
    if paths:
        paths.append(paths[0].parent / segment_name(files.log, files.segments[-1][0] + 1))
    if files.checkpoints is not None:
        paths.append(files.checkpoints)
    state: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            found = path.lstat()
            state.append((found.st_ino, found.st_size, found.st_mtime_ns))
        except OSError:
            state.append(None)
    return state


def _is_locked(path: Path | None) -> bool:
    """Whether a process holds the log; its lock is tried for a moment, shared."""
    if path is None:
        return False
    try:
        file = open_regular(path)
    except AuditVerificationError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False
