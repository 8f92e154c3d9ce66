"""Reading files that an attacker may have put there: never through a link, never blocked by a pipe, never a line too much."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

from steerguard.errors import AuditVerificationError

MAX_LINE_BYTES: Final = 2**20
"""A longer line is no record."""
BLOCK_BYTES: Final = 2**18


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; a link is not followed and a pipe is not waited for.

    Raises:
        AuditVerificationError: not there, may not be read, or another kind of file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        found = "a symbolic link" if error.errno == errno.ELOOP else error.strerror or "an error"
        raise _unreadable(path, found) from error
    except ValueError as error:
        raise _unreadable(path, "a name with a zero byte") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _unreadable(path, "no regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


class LineReader:
    """Reads a file in blocks of whole lines.

    Args:
        file: read from where it stands.
        digest: whether to compute the SHA-256 of all bytes read.

    Attributes:
        tail: bytes after the last newline, once the blocks are at their end.
        too_long: whether reading ended at a line of more than `MAX_LINE_BYTES`; `tail` is then its beginning.
        size: bytes read.
    """

    def __init__(self, file: BinaryIO, *, digest: bool = False) -> None:
        self._file = file
        self._digest = sha256() if digest else None
        self.tail = b""
        self.too_long = False
        self.size = 0

    @property
    def digest(self) -> str | None:
        """SHA-256 of all bytes read, hexadecimal; None when it was not asked for."""
        return None if self._digest is None else self._digest.hexdigest()

    def blocks(self) -> Iterator[list[bytes]]:
        """Yield lists of whole lines without their newlines; may be called again to read what was appended since."""
        while not self.too_long and (block := self._file.read(BLOCK_BYTES)):
            self.size += len(block)
            if self._digest is not None:
                self._digest.update(block)
            lines = (self.tail + block).split(b"\n")
            self.tail = lines.pop()
            # Only the first line of a block can reach back, and only the last one can go on.
            if lines and len(lines[0]) > MAX_LINE_BYTES:
                self.tail, self.too_long = lines[0], True
                return
            self.too_long = len(self.tail) > MAX_LINE_BYTES
            if lines:
                yield lines


def _unreadable(path: Path, found: str) -> AuditVerificationError:
    return AuditVerificationError(
        "A file of an audit log cannot be read.",
        where=path,
        expected="a regular file that may be read",
        found=found,
        next_step="Put the file back as the log wrote it, or give its reader the right to read it.",
    )
