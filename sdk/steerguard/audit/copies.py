"""Where signed checkpoints go besides the log's directory: what was copied to another place, nobody here can take back.

A copy may be given the same checkpoint again after a failure; it is never given another one of the same size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol, runtime_checkable

from steerguard.audit.evidence.checkpoint import SignedHead, parse_head
from steerguard.audit.evidence.checkpoint_file import require_readable
from steerguard.audit.evidence.durable import sync_directory, sync_file
from steerguard.audit.evidence.layout import checkpoints_name
from steerguard.errors import AuditSinkError

NEXT_STEP = "Repair the place of the copy; the log tries again with its next record."


@runtime_checkable
class CheckpointCopy(Protocol):
    """A second place for checkpoints, best on another machine or under another owner."""

    def publish(self, log: str, note: bytes) -> None:
        """Keep a checkpoint; the same one may come again. One log makes one call at a time; several logs may call at once.

        Args:
            log: id of the log.
            note: the signed note.

        Raises:
            AuditSinkError: it could not be kept; the log takes no record until it can.
        """


class _End(NamedTuple):
    """The end of a file of checkpoints."""

    file: tuple[int, int]
    """Device and number of the file."""
    whole: int
    """Bytes of whole notes."""
    last: SignedHead | None


class DirectoryCopy:
    """Appends checkpoints to `<directory>/<log id>.checkpoints`, for a directory on another disk or a mounted share.

    Args:
        directory: made on first use, mode 0700. It must not be the log's own.
    """

    def __init__(self, directory: Path) -> None:
        # A relative one would lead elsewhere once the process changes its directory.
        self._directory = directory.absolute()
        self._ends: dict[str, _End] = {}
        """By log: what was found or written last. A log's file grows with every checkpoint and is read only once."""

    def publish(self, log: str, note: bytes) -> None:
        """Append the checkpoint and make it durable.

        Raises:
            AuditSinkError: it cannot be written, or the file has another checkpoint of this size or a later one.
        """
        path = self._directory / checkpoints_name(log)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                end = self._ends.pop(log, None)
                self._ends[log] = self._append(descriptor, note, path, end)
                sync_directory(self._directory)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _failed(path, error.strerror) from error

    @staticmethod
    def _append(descriptor: int, note: bytes, path: Path, end: _End | None) -> _End:
        status = os.fstat(descriptor)
        if end is None or end.file != (status.st_dev, status.st_ino) or end.whole != status.st_size:
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read()
            whole, last = require_readable(content, path)
            if whole != len(content):
                # What an earlier attempt wrote in part.
                os.ftruncate(descriptor, whole)
        else:
            whole, last = end.whole, end.last
        signed = parse_head(note)
        head = signed.head
        if last is not None and last.note.content == note:
            # An earlier attempt may have written it and failed to make it durable.
            sync_file(descriptor)
            return _End((status.st_dev, status.st_ino), whole, last)
        if last is not None and last.head.size >= head.size:
            raise AuditSinkError(
                "A copy of the checkpoints is ahead of the log.",
                where=path,
                expected=f"a size below {head.size}",
                found=f"a checkpoint of size {last.head.size}",
                next_step="Somebody else wrote to the copy, or the log went back: keep both and verify them.",
            )
        stored = note + b"\n"
        written = os.write(descriptor, stored)
        if written != len(stored):
            os.ftruncate(descriptor, whole)
            raise _failed(path, f"{written} of {len(stored)} bytes written")
        sync_file(descriptor)
        return _End((status.st_dev, status.st_ino), whole + len(stored), signed)


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """Writes checkpoints to a stream that somebody else keeps, such as standard output under a log collector."""

    stream: IO[str]

    def publish(self, log: str, note: bytes) -> None:
        """Write the checkpoint and an empty line, and flush.

        Raises:
            AuditSinkError: the stream takes nothing.
        """
        try:
            self.stream.write(note.decode("utf-8") + "\n")
            self.stream.flush()
        except (OSError, ValueError) as error:
            raise _failed(f"stream for {log}", getattr(error, "strerror", None) or type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class CallableCopy:
    """Gives checkpoints to a function: a call to a transparency log, a database, a message queue.

    Args:
        function: takes the log id and the signed note, returns when it is kept, raises otherwise.
    """

    function: Callable[[str, bytes], object]

    def publish(self, log: str, note: bytes) -> None:
        """Call the function.

        Raises:
            AuditSinkError: it raised.
        """
        try:
            self.function(log, note)
        except Exception as error:
            raise _failed(f"function for {log}", type(error).__name__) from error


def _failed(where: object, found: str | None) -> AuditSinkError:
    return AuditSinkError(
        "A checkpoint could not be copied to its second place.",
        where=where,
        expected="a place that keeps it",
        found=found,
        next_step=NEXT_STEP,
    )
