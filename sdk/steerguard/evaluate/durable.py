"""Files that survive a kill: whole or absent, and on the medium when the call returns."""

from __future__ import annotations

import os
from pathlib import Path

from steerguard.errors import EvaluationError


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: readers and later runs see the old content or the new one, never a part.

    Raises:
        EvaluationError: the file cannot be written; the old one is as it was.
    """
    # One name for all starts, so that kills leave one file at most; the folder is locked.
    staging = path.with_name(f".{path.name}.part")
    try:
        with os.fdopen(os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise EvaluationError(
            "A file cannot be written.", where=path, found=error.strerror or type(error).__name__
        ) from error
    finally:
        staging.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the medium."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
