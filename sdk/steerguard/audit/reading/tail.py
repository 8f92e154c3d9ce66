"""The newest records of all logs, and what is written after them, without verifying the logs.

What is read of a log is checked against the chain from line to line, and nothing else is.
A line counts once its newline is there, so a record that is being written is never shown in part.
"""

from __future__ import annotations

import heapq
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from steerguard.audit.evidence.layout import LogFiles, log_at, logs_in
from steerguard.audit.records.chain import FIRST_PREV, leaf_hash
from steerguard.audit.verification.files import MAX_LINE_BYTES, LineReader, open_regular
from steerguard.errors import AuditVerificationError

_BLOCK: Final = 2**18
"""Bytes that are read backwards at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TailLine:
    """One complete line."""

    log: str
    record: dict[str, Any]
    """It need not fit the schema of its type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TailBreak:
    """Two lines that are not chained, or something that is no record."""

    log: str
    segment: str
    """Name of the file."""
    reason: str


TailItem = TailLine | TailBreak
Admits = Callable[[dict[str, Any]], bool]


class Tail:
    """Reads the ends of the logs of a directory, or of the one log that a file belongs to.

    Call `newest` once, then `poll` as often as wanted.
    """

    def __init__(self, path: Path, admits: Admits) -> None:
        self._path = path
        self._admits = admits
        self._followed: dict[str, _Followed] = {}

    def newest(self, count: int) -> list[TailItem]:
        """Return the newest admitted lines of all logs, oldest first, behind the breaks that were seen on the way.

        Each log is read backwards until so many were found. At most `count` lines are kept.

        Raises:
            AuditVerificationError: there is no such directory or log, or it cannot be read.
        """
        breaks: list[TailItem] = []
        found: list[tuple[str, str, int, TailLine]] = []
        for files in self._logs():
            followed = _Followed(files.log)
            self._followed[files.log] = followed
            admitted = 0
            latest = "~"  # above every time
            for back, item in enumerate(followed.backwards(files)):
                if isinstance(item, TailBreak):
                    breaks.append(item)
                    continue
                # Within a log the chain decides, also where the clock was set back.
                latest = min(latest, str(item.record.get("t")))
                if admitted < count and self._admits(item.record):
                    admitted += 1
                    entry = (latest, item.log, -back, item)
                    (heapq.heappush if len(found) < count else heapq.heappushpop)(found, entry)
                if admitted >= count:
                    break
        return [*breaks, *(entry[-1] for entry in sorted(found, key=lambda entry: entry[:-1]))]

    def poll(self) -> Iterator[TailItem]:
        """Yield what was completed since the last call, log by log: of known logs, new segments and new logs.

        Raises:
            AuditVerificationError: the directory or a log cannot be read.
        """
        logs = self._logs()
        for gone in self._followed.keys() - {files.log for files in logs}:
            del self._followed[gone]
        for files in logs:
            followed = self._followed.setdefault(files.log, _Followed(files.log))
            for item in followed.forwards(files):
                if isinstance(item, TailBreak) or self._admits(item.record):
                    yield item

    def _logs(self) -> tuple[LogFiles, ...]:
        return logs_in(self._path) if self._path.is_dir() else (log_at(self._path),)


class _Followed:
    """How far one log was read."""

    def __init__(self, log: str) -> None:
        self.log = log
        self._segment = -1
        self._offset = 0
        """Behind the last complete line of that segment."""
        self._prev: str | None = FIRST_PREV
        """Leaf hash of that line; None where it is not known."""
        self._given_up = False

    def backwards(self, files: LogFiles) -> Iterator[TailItem]:
        """Yield the complete lines from the last to the first; reading forwards then goes on behind the last."""
        following: str | None = None
        first = True
        for number, path in reversed(files.segments):
            for line, end in _lines_back(path):
                if first:
                    self._segment, self._offset, self._prev, first = number, end, leaf_hash(line), False
                if following is not None and leaf_hash(line) != following:
                    yield self._broken(path, "a line's hash is not the `prev` of the next one")
                record = _parsed(line)
                following = None if record is None else str(record.get("prev"))
                yield self._item(path, record)

    def forwards(self, files: LogFiles) -> Iterator[TailItem]:
        """Yield the complete lines that follow."""
        for place, (number, path) in enumerate(files.segments):
            if number < self._segment or self._given_up:
                continue
            if number > self._segment:
                # The first segments of a log may have been pruned.
                known = self._segment >= 0 or number == 0
                self._segment, self._offset, self._prev = number, 0, self._prev if known else None
            yield from self._rest(path, last=place == len(files.segments) - 1)

    def _rest(self, path: Path, *, last: bool) -> Iterator[TailItem]:
        """Yield what follows in one segment; behind its last line nothing may be left once there is another segment."""
        size = _size(path)
        if size is None:
            return
        if size < self._offset:
            yield self._broken(path, "it is shorter than what was read of it")
            self._offset, self._prev = size, None
        if size == self._offset:
            return
        with _opened(path) as file:
            file.seek(self._offset)
            reader = LineReader(file)
            for lines in reader.blocks():
                for line in lines:
                    self._offset += len(line) + 1
                    yield from self._next(path, line)
        if reader.too_long:
            self._given_up = True
            yield self._broken(path, "a line is longer than a record may be; the log is not followed any more")
        elif reader.tail and not last:
            yield self._broken(path, "it ends without a newline though another segment follows")
            self._prev = None

    def _next(self, path: Path, line: bytes) -> Iterator[TailItem]:
        record = _parsed(line)
        if record is not None and self._prev is not None and record.get("prev") != self._prev:
            yield self._broken(path, "the hash of the line before is not the `prev` of this one")
        self._prev = leaf_hash(line)
        yield self._item(path, record)

    def _item(self, path: Path, record: dict[str, Any] | None) -> TailItem:
        if record is None:
            return self._broken(path, "a line is no JSON object")
        if record.get("log") != self.log:
            return self._broken(path, "a record of another log is in it")
        return TailLine(log=self.log, record=record)

    def _broken(self, path: Path, reason: str) -> TailBreak:
        return TailBreak(log=self.log, segment=path.name, reason=reason)


def _lines_back(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each complete line without its newline, from the last to the first, and the offset behind it."""
    with _opened(path) as file:
        start = file.seek(0, os.SEEK_END)
        tail = b""
        """What was read and not yielded, up to and including the last newline that counts."""
        complete = False
        while start > 0:
            block = min(_BLOCK, start)
            start -= block
            file.seek(start)
            tail = file.read(block) + tail
            if not complete:
                tail = tail[: tail.rfind(b"\n") + 1]
                complete = bool(tail)
            end = start + len(tail)
            # The first line may have begun before this block.
            head, *lines = tail.removesuffix(b"\n").split(b"\n")
            for line in reversed(lines):
                yield line, end
                end -= len(line) + 1
            tail = head + b"\n" if complete else b""
            if len(tail) > MAX_LINE_BYTES + 1:
                raise AuditVerificationError(
                    "A line of the audit log is longer than a record may be.",
                    where=path,
                    expected=f"at most {MAX_LINE_BYTES} bytes",
                    next_step="Run `steerguard audit verify` on the log.",
                )
        if complete:
            yield tail[:-1], len(tail)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _size(path: Path) -> int | None:
    """Return the size in bytes; None when the segment was pruned meanwhile."""
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except AuditVerificationError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
        # It was pruned since the directory was listed: nothing of it is left.
        return io.BytesIO()
