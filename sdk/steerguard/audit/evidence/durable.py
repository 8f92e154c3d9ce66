"""Making files and directories durable, and noticing that a file was removed while it is open."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

NEW_LOG: Final = "Call model.guard.use_audit(AuditLog.open(...)) to go on with a new log."
"""The next step when a log takes no more records."""
REMOVED: Final = "the file was removed while the log was open"
"""What was found when a file of an open log has no name any more."""
DISPLACED: Final = "the file was moved, or another took its place, while the log was open"
"""What was found when the name of a file of an open log leads elsewhere."""


def sync_file(descriptor: int) -> None:
    """Wait until a file's data is on the medium.

    Raises:
        OSError: the medium reported an error.
    """
    if hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Wait until the names in a directory are on the medium.

    Raises:
        OSError: the directory cannot be opened, or the medium reported an error.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_removed(descriptor: int) -> bool:
    """Return whether an open file has no name any more: writing to it would succeed and keep nothing.

    Raises:
        OSError: the descriptor cannot be looked at.
    """
    return os.fstat(descriptor).st_nlink == 0


def is_displaced(descriptor: int, path: Path) -> bool:
    """Return whether a path leads to another file than an open one, or to none: a directory was moved or replaced.

    A process that gave up the right to look since it opened the file learns nothing, and so the answer is no.

    Raises:
        OSError: path or descriptor cannot be looked at for another reason.
    """
    own = os.fstat(descriptor)
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except PermissionError:
        return False
    return (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino)


@contextmanager
def replaced(path: Path, *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Open a file that takes its name, and is on the medium, when the block ends, and not at all if the block fails.

    Raises:
        OSError: it cannot be written.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - made with its final mode
            yield file
            file.flush()
            os.fsync(descriptor)
        staged.replace(path)
        sync_directory(path.parent)
    finally:
        staged.unlink(missing_ok=True)
