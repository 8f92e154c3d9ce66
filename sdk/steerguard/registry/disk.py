"""What the operating system refuses, as an error that says what to do about it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerguard.errors import ArtifactError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk_errors(summary: str, *, where: Path) -> Iterator[None]:
    """Turn an OSError of the file system into an ArtifactError that names the next step.

    Args:
        summary: what could not be done, one sentence.
        where: folder or file that it was done to.

    Raises:
        ArtifactError: the operating system refused.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(summary, where=where, error=error) from error


def disk_error(summary: str, *, where: Path, error: OSError) -> ArtifactError:
    """Return the error that names the next step after the operating system refused."""
    full = error.errno in _FULL
    return ArtifactError(
        summary,
        where=where,
        found=error.strerror or type(error).__name__,
        next_step=(
            "Free space, or set STEERGUARD_STORE to a folder on a larger disk, then try again; nothing was lost."
            if full
            else "Correct the permissions or choose another folder with STEERGUARD_STORE, then try again."
        ),
    )
