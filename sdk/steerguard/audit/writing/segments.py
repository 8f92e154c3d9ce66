"""The row of files that the lines of one log go to: segment 0, 1, 2, … of a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple, Self

from steerguard.audit.evidence.durable import (
    DISPLACED,
    NEW_LOG,
    REMOVED,
    is_displaced,
    is_removed,
    sync_directory,
    sync_file,
)
from steerguard.audit.evidence.layout import FINISHED_MODE, MAX_SEGMENTS, segment_name
from steerguard.audit.sinks import FileSink
from steerguard.errors import AuditSinkError

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class _Row(NamedTuple):
    """Which files are open. Replaced as a whole, so that no interrupt can split it."""

    number: int
    current: FileSink
    retiring: FileSink | None
    """The segment before, until it is set aside."""


class Segments:
    """Appends lines to the current segment and goes on in a new one when told; a `SettlingSink`.

    Args:
        directory: of the log.
        log: id of the log.
        number: of the current segment.
        current: the open current segment.
    """

    def __init__(self, directory: Path, log: str, number: int, current: FileSink) -> None:
        self._directory = directory
        self._log = log
        self._row = _Row(number, current, None)

    @classmethod
    def create(cls, directory: Path, log: str) -> Self:
        """Make segment 0.

        Raises:
            AuditSinkError: it exists or cannot be made.
        """
        first = FileSink.create(directory / segment_name(log, 0))
        try:
            return cls(directory, log, 0, first)
        except BaseException:
            first.close()
            raise

    @property
    def number(self) -> int:
        """Number of the current segment."""
        return self._row.number

    @property
    def path(self) -> Path:
        """The current segment."""
        return self._directory / segment_name(self._log, self._row.number)

    @property
    def size(self) -> int:
        """Bytes of the current segment."""
        return self._row.current.size

    @property
    def digest(self) -> str:
        """SHA-256 over the current segment, hexadecimal."""
        return self._row.current.digest

    def write(self, line: bytes) -> None:
        """Append one line and a newline; see `FileSink.write`."""
        self._row.current.write(line)

    def settle(self, start: int, line: bytes) -> bool:
        """Find out what an interrupted write left; see `FileSink.settle`."""
        return self._row.current.settle(start, line)

    def sync(self) -> None:
        """Wait until the current segment is on the medium, in its place; see `FileSink.sync`.

        Raises:
            AuditSinkError: the medium reported an error, or the segment was removed, moved or replaced.
        """
        self._row.current.sync()
        try:
            displaced = is_displaced(self._row.current.descriptor, self.path)
        except OSError as error:
            raise self._failure(error.strerror, NEW_LOG) from error
        if displaced:
            raise self._failure(DISPLACED, NEW_LOG)

    def duplicate(self) -> int:
        """Open the current segment once more, for `sync_duplicate`.

        The system reports a failed write only once for each time that a file was opened. So a copy of the descriptor
        would not do: the background could learn of a failure, and a record that is synced meanwhile would not.

        Raises:
            OSError: it cannot be opened, or its name leads elsewhere.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not os.path.sameopenfile(descriptor, self._row.current.descriptor):
            os.close(descriptor)
            raise FileNotFoundError(0, DISPLACED)
        return descriptor

    def sync_duplicate(self, descriptor: int) -> None:
        """Wait until what was written so far is on the medium, while others go on writing; the descriptor is left open.

        Raises:
            AuditSinkError: the medium reported an error, or the file was removed.
        """
        try:
            sync_file(descriptor)
            removed = is_removed(descriptor)
        except OSError as error:
            raise self._failure(error.strerror, NEW_LOG) from error
        if removed:
            raise self._failure(REMOVED, NEW_LOG)

    def advance(self) -> None:
        """Go on in a new, empty segment; may be called again after a failure or an interrupt.

        Raises:
            AuditSinkError: the segment cannot be made, and the current one stays.
        """
        number, current, retiring = self._row
        path = self._directory / segment_name(self._log, number + 1)
        if number + 1 >= MAX_SEGMENTS:
            raise self._failure(f"{MAX_SEGMENTS} segments", NEW_LOG)
        if retiring is not None:
            self.retire()
        try:
            # An attempt that failed may have made it; the name is this log's own, so nobody else did.
            descriptor = os.open(path, _FLAGS, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                sync_directory(self._directory)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise AuditSinkError(
                "A new segment of the audit log cannot be made.",
                where=path,
                expected="a new file in a directory that takes it",
                found=error.strerror,
                next_step="Free space or repair the directory, then try again.",
            ) from error
        if size:
            os.close(descriptor)
            raise self._failure(f"{path.name} exists and holds {size} bytes", NEW_LOG)
        self._row = _Row(number + 1, FileSink(descriptor, where=str(path)), current)

    def retire(self) -> None:
        """Make the segment before the current one read-only and close it; may be called again.

        Raises:
            AuditSinkError: its mode cannot be changed.
        """
        row = self._row
        if row.retiring is not None:
            self._finish(row.retiring)
            self._row = row._replace(retiring=None)

    def finish(self) -> None:
        """Make every open segment read-only and close it: the log ends here.

        Raises:
            AuditSinkError: a mode cannot be changed.
        """
        self.retire()
        self._finish(self._row.current)

    def close(self) -> None:
        """Close the files as they are; a second call does nothing.

        Raises:
            AuditSinkError: see `FileSink.close`.
        """
        row = self._row
        try:
            row.current.close()
        finally:
            if row.retiring is not None:
                row.retiring.close()

    def _finish(self, sink: FileSink) -> None:
        try:
            sink.finish(FINISHED_MODE)
        except OSError as error:
            raise self._failure(error.strerror, "Repair the directory, then try again.") from error

    def _failure(self, found: str | None, next_step: str) -> AuditSinkError:
        return AuditSinkError(
            "The audit log cannot go on in its file.",
            where=self.path,
            expected="a file that keeps what is written to it",
            found=found,
            next_step=next_step,
        )
