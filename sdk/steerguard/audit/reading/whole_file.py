"""A file that is written whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from steerguard.audit.evidence.durable import replaced
from steerguard.audit.evidence.layout import LOG_ID
from steerguard.errors import AuditError


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name, with mode 0600 and on the medium, when the block ends, and not at all if it fails.

    An earlier file of the name is replaced in one step.

    Raises:
        AuditError: it cannot be written, is not a regular file, or has the name of a file of a log.
    """
    if LOG_ID.match(path.name):
        raise AuditError(
            "A file of a log must not be replaced.",
            where=path,
            expected="a name that does not begin with a log id",
            next_step="Give another name.",
        )
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise AuditError("The file cannot be written.", where=path, expected="a new name, or a regular file")
    try:
        with replaced(path) as file:
            yield file
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path | None, error: OSError) -> AuditError:
    """Return the error for a file, or a stream without a path, that cannot be written."""
    return AuditError(
        "The file cannot be written.",
        where=path,
        found=error.strerror or type(error).__name__,
        next_step="Make room, or give a path that can be written.",
    )
