"""Making files and directories durable, and noticing that a file was removed while it is open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NEW_LOG: Final = "Call model.guard.use_audit(AuditLog.open(...)) to go on with a new log."
"""The next step when a log takes no more records."""
REMOVED: Final = "the file was removed while the log was open"
"""What was found when a file of an open log has no name any more."""


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
