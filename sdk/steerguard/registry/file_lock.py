"""Advisory locks between threads and processes: one file each, held by `flock` and let go by the system at a crash."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerguard.errors import ArtifactError

if sys.platform != "win32":
    import fcntl


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file, made when absent, or of a folder that exists.

    Two threads of one process exclude each other like two processes do: each call opens the path anew.

    Args:
        path: file or folder that stands for what is locked; its content is left alone.
        wait: wait for the holder; otherwise return at once.

    Yields:
        Whether the lock is held; always true when `wait` is.

    Raises:
        ArtifactError: the platform has no such locks.
        OSError: the file cannot be opened.
    """
    if sys.platform == "win32":
        raise ArtifactError("Changing a store of artifacts needs a POSIX system.", found=sys.platform)
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            # A child that was forked meanwhile shares the descriptor: closing ours alone would leave the lock held.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
