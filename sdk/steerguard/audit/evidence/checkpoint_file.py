"""The file of checkpoints of one log. Its lock says that the log is in use, and its mode whether the log is finished."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path
from typing import Final, NamedTuple, Self

from steerguard.audit.evidence.checkpoint import SignedHead, parse_head, split_notes, stored
from steerguard.audit.evidence.durable import NEW_LOG, REMOVED, is_removed, sync_directory, sync_file
from steerguard.audit.evidence.layout import FINISHED_MODE, OPEN_MODE, checkpoints_name
from steerguard.errors import AuditSinkError, AuditVerificationError

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
AGAIN: Final = "Free space or repair the directory; the log tries again with its next record."


class _Kept(NamedTuple):
    """What the file holds. Replaced as a whole, so that no interrupt can split it."""

    bytes: int
    last: SignedHead | None


class CheckpointFile:
    """An open, locked file of checkpoints.

    Args:
        descriptor: open for appending and locked; closed by `close`.
        path: its name, for messages.
        size: bytes of whole notes.
        last: the last of them.
    """

    def __init__(self, descriptor: int, path: Path, *, size: int = 0, last: SignedHead | None = None) -> None:
        self._descriptor = descriptor
        self._path = path
        self._kept = _Kept(size, last)
        self._closed = False

    @classmethod
    def create(cls, directory: Path, log: str) -> Self:
        """Make the file, locked from the moment that it has its name, and make the name durable.

        Raises:
            AuditSinkError: it cannot be made.
        """
        path = directory / checkpoints_name(log)
        staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            descriptor = os.open(staged, _FLAGS | os.O_CREAT | os.O_EXCL, OPEN_MODE)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                staged.rename(path)
                sync_directory(directory)
                return cls(descriptor, path)
            except BaseException:
                os.close(descriptor)
                for name in (staged, path):
                    name.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise AuditSinkError(
                "The file of checkpoints cannot be made.",
                where=path,
                expected="a new, locked file in a directory that takes it",
                found=error.strerror,
                next_step="Give a directory that this process can write to, on a file system with locks.",
            ) from error

    @property
    def last(self) -> SignedHead | None:
        """The last checkpoint."""
        return self._kept.last

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def cut(self) -> None:
        """Cut off what follows the last whole note.

        Raises:
            AuditSinkError: that failed.
        """
        try:
            os.ftruncate(self._descriptor, self._kept.bytes)
            sync_file(self._descriptor)
        except OSError as error:
            raise self._failure(error.strerror, AGAIN) from error

    def append(self, head: SignedHead) -> None:
        """Append a checkpoint and make it durable; one of the same size as the last is there already.

        Raises:
            AuditSinkError: it could not be written; the file holds nothing of it, or the next call cuts it off.
        """
        kept = self._kept
        if kept.last is not None and kept.last.head.size == head.head.size:
            return
        content = stored(head)
        try:
            found = os.fstat(self._descriptor).st_size
            if found < kept.bytes:
                raise self._failure(f"{found} bytes where {kept.bytes} were due", NEW_LOG)
            if found > kept.bytes:
                # An attempt that failed or was interrupted.
                os.ftruncate(self._descriptor, kept.bytes)
            written = os.write(self._descriptor, content)
            if written != len(content):
                os.ftruncate(self._descriptor, kept.bytes)
                raise self._failure(f"{written} of {len(content)} bytes written", AGAIN)
            sync_file(self._descriptor)
            if is_removed(self._descriptor):
                raise self._failure(REMOVED, NEW_LOG)
        except OSError as error:
            raise self._failure(error.strerror, AGAIN) from error
        self._kept = _Kept(kept.bytes + len(content), head)

    def finish(self) -> None:
        """Say that the log is finished.

        Raises:
            AuditSinkError: the mode cannot be changed.
        """
        try:
            os.fchmod(self._descriptor, FINISHED_MODE)
        except OSError as error:
            raise self._failure(error.strerror, "Repair the directory; the next process finishes the log.") from error

    def close(self) -> None:
        """Close the file, which lets go of the lock unless a parent process holds it too; a second call does nothing.

        Raises:
            AuditSinkError: the file system has an error to tell; the file is closed all the same.
        """
        if not self._closed:
            self._closed = True
            try:
                os.close(self._descriptor)
            except OSError as error:
                raise self._failure(error.strerror, NEW_LOG) from error

    def _failure(self, found: str | None, next_step: str) -> AuditSinkError:
        return AuditSinkError(
            "A checkpoint of the audit log could not be written.",
            where=self._path,
            expected="the whole checkpoint in its file",
            found=found,
            next_step=next_step,
        )


def last_whole_note(content: bytes) -> tuple[int, SignedHead | None]:
    """Return how many bytes of a file of checkpoints are whole notes, and the last of these.

    Raises:
        AuditVerificationError: a whole note cannot be read.
    """
    whole, last = 0, None
    for note in split_notes(content):
        if content[whole + len(note) : whole + len(note) + 1] != b"\n":
            break
        whole, last = whole + len(note) + 1, parse_head(note)
    return whole, last


def require_readable(content: bytes, path: Path) -> tuple[int, SignedHead | None]:
    """Do as `last_whole_note`.

    Raises:
        AuditSinkError: a whole note cannot be read.
    """
    try:
        return last_whole_note(content)
    except AuditVerificationError as error:
        raise AuditSinkError(
            "A file of checkpoints is damaged.",
            where=path,
            expected="whole signed notes",
            found="a checkpoint that cannot be read",
            next_step="Keep the file as evidence, and choose another directory.",
        ) from error
