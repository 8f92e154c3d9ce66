"""Where the lines of a log go: a file, or memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple, Protocol, Self, runtime_checkable

from steerguard.audit.evidence.durable import NEW_LOG, REMOVED, is_removed, sync_directory, sync_file
from steerguard.errors import AuditSinkError


@runtime_checkable
class AuditSink(Protocol):
    """A place for lines.

    `write` keeps the whole line, or nothing of it and raises `AuditSinkError`.
    A sink that cannot promise that for a failed write raises `AuditSinkError` from then on.
    """

    def write(self, line: bytes) -> None:
        """Append one line; the line has no newline."""

    def sync(self) -> None:
        """Return when all written lines would survive a power cut, as far as the medium allows."""

    def close(self) -> None:
        """Release the medium; a second call does nothing."""


@runtime_checkable
class SettlingSink(AuditSink, Protocol):
    """A sink that can find out what an interrupted write left behind, and undo it."""

    @property
    def size(self) -> int:
        """Bytes of all whole lines."""

    def settle(self, start: int, line: bytes) -> bool:
        """Keep the line that was being written when the sink had the size `start` if it is whole, else none of it.

        Returns whether it was kept; raises `AuditSinkError`, then and from then on, when that cannot be done.
        """


class MemorySink:
    """Keeps lines in a list: for tests, and for hosts that carry them on themselves."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.syncs = 0
        """How many times the log asked for durability."""

    def write(self, line: bytes) -> None:
        """Append one line."""
        self.lines.append(line)

    def sync(self) -> None:
        """Count the call; memory has nothing to flush."""
        self.syncs += 1

    def close(self) -> None:
        """Keep the lines readable."""

    @property
    def content(self) -> bytes:
        """The lines as a log file would hold them."""
        return b"".join(line + b"\n" for line in self.lines)


class _Kept(NamedTuple):
    """What a file holds. Replaced as a whole, so that no interrupt can split it."""

    size: int
    digest: hashlib._Hash


class FileSink:
    """Appends lines to a file of its own, one `os.write` per line.

    A line that was written in part is cut off again.
    When that fails too, the sink refuses every later line.

    Args:
        descriptor: an open, writable file that nobody else writes to; the sink closes it.
        where: what to call it in error messages.
        size: bytes that it holds.
        digest: SHA-256 over them.
    """

    def __init__(self, descriptor: int, *, where: str, size: int = 0, digest: hashlib._Hash | None = None) -> None:
        self._descriptor = descriptor
        self._where = where
        self._kept = _Kept(size, digest or hashlib.sha256())
        self._broken = False
        self._closed = False

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new file with mode 0600 and make its directory entry durable.

        Raises:
            AuditSinkError: the file exists or cannot be made.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                sync_directory(path.parent)
                return cls(descriptor, where=str(path))
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise AuditSinkError(
                "The audit log file cannot be made.",
                where=path,
                expected="a new file in a directory that takes it",
                found=error.strerror,
                next_step="Give a directory that this process can write to.",
            ) from error

    @classmethod
    def resume(cls, path: Path, size: int, digest: hashlib._Hash) -> Self:
        """Open a file to go on behind its first `size` bytes, and cut off the others.

        Raises:
            AuditSinkError: it cannot be opened or cut.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.ftruncate(descriptor, size)
                sync_file(descriptor)
                return cls(descriptor, where=str(path), size=size, digest=digest)
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise AuditSinkError(
                "An audit log cannot be continued.",
                where=path,
                expected="a file that can be cut and written to",
                found=error.strerror,
                next_step="Free space or repair the directory, then try again.",
            ) from error

    def write(self, line: bytes) -> None:
        """Append one line and a newline.

        Raises:
            AuditSinkError: the line could not be written; the file holds nothing of it unless the sink is now broken.
        """
        self._require_usable()
        content = line + b"\n"
        kept = self._kept
        try:
            written = os.write(self._descriptor, content)
        except OSError as error:
            self._cut_back()
            raise self._failure(error.strerror) from error
        if written != len(content):
            self._cut_back()
            raise self._failure(f"{written} of {len(content)} bytes written")
        self._kept = _with(kept, content)

    @property
    def size(self) -> int:
        """Bytes of all lines that are known to be whole."""
        return self._kept.size

    @property
    def digest(self) -> str:
        """SHA-256 over all lines that are known to be whole, hexadecimal."""
        return self._kept.digest.hexdigest()

    @property
    def descriptor(self) -> int:
        """The open file."""
        return self._descriptor

    def settle(self, start: int, line: bytes) -> bool:
        """Adopt an interrupted line when the file holds all of it, cut it off otherwise; may be called again.

        Args:
            start: the size of the file before the line.
            line: the line without its newline.

        Returns:
            Whether the file holds the line.

        Raises:
            AuditSinkError: the file's end cannot be told or repaired, so the sink is broken from then on.
        """
        self._require_usable()
        end = start + len(line) + 1
        try:
            found = os.fstat(self._descriptor).st_size
            if start < found < end:
                os.ftruncate(self._descriptor, start)
        except OSError as error:
            self._broken = True
            raise self._failure(error.strerror) from error
        kept = self._kept
        if not start <= found <= end or kept.size not in {start, found}:
            self._broken = True
            raise self._failure(f"{found} bytes where {start} to {end} were due")
        if kept.size < found == end:
            self._kept = _with(kept, line + b"\n")
        return found == end

    def sync(self) -> None:
        """Wait until the file's data is on the medium.

        Raises:
            AuditSinkError: the medium reported an error; what it holds is unknown, so the sink is broken from then on.
        """
        self._require_usable()
        try:
            sync_file(self._descriptor)
            removed = is_removed(self._descriptor)
        except OSError as error:
            self._broken = True
            raise self._failure(error.strerror) from error
        if removed:
            self._broken = True
            raise self._failure(REMOVED)

    def finish(self, mode: int) -> None:
        """Give the file its last mode and close it; a second call does nothing.

        Raises:
            OSError: the mode cannot be changed.
            AuditSinkError: as `close`.
        """
        if not self._closed:
            os.fchmod(self._descriptor, mode)
            self.close()

    def close(self) -> None:
        """Close the file; a second call does nothing.

        Raises:
            AuditSinkError: the file system has an error to tell, which some keep until then; the file is closed all the same.
        """
        if not self._closed:
            self._closed = True
            try:
                os.close(self._descriptor)
            except OSError as error:
                raise self._failure(error.strerror) from error

    def _cut_back(self) -> None:
        try:
            # A medium that takes no writes does not let a file be cut either, and then there is nothing to cut.
            if os.fstat(self._descriptor).st_size != self._kept.size:
                os.ftruncate(self._descriptor, self._kept.size)
        except OSError:
            self._broken = True

    def _require_usable(self) -> None:
        if self._closed or self._broken:
            raise self._failure("the file is closed" if self._closed else "an earlier failure left its end unknown")

    def _failure(self, found: str | None) -> AuditSinkError:
        return AuditSinkError(
            "The audit record could not be written.",
            where=self._where,
            expected="the whole record in its file",
            found=found,
            next_step=NEW_LOG
            if self._broken or self._closed
            else "Free space or repair the directory, then try again.",
        )


def _with(kept: _Kept, content: bytes) -> _Kept:
    digest = kept.digest.copy()
    digest.update(content)
    return _Kept(kept.size + len(content), digest)
