"""A file that takes no more bytes than were announced, so that a hostile server cannot fill the disk."""

from __future__ import annotations

import threading
from typing import BinaryIO

from steerguard.errors import ArtifactIntegrityError


class TransferStoppedError(Exception):
    """Raised inside a download when another part of the same pull has failed or the user has interrupted it."""


class BoundedFile:
    """Passes writes on to a file until a limit.

    Args:
        stream: a binary file, writable and seekable.
        limit: largest position in bytes that may be written to.
        where: repository and file, for messages.
        stop: ends the transfer at the next write when set.
    """

    def __init__(self, stream: BinaryIO, *, limit: int, where: str, stop: threading.Event | None = None) -> None:
        self._stream = stream
        self._limit = limit
        self._where = where
        self._stop = stop
        # A server that breaks off and starts again for ever would otherwise never end.
        self._budget = 4 * limit + 65536

    def write(self, content: bytes) -> int:
        """Write bytes.

        Raises:
            ArtifactIntegrityError: the limit is exceeded.
            TransferStoppedError: the transfer was stopped.
            OSError: the operating system refuses.
        """
        if self._stop is not None and self._stop.is_set():
            raise TransferStoppedError
        self._budget -= len(content)
        if self._stream.tell() + len(content) > self._limit or self._budget < 0:
            raise ArtifactIntegrityError(
                "The registry sends more bytes than the file may have.",
                where=self._where,
                expected=f"at most {self._limit} bytes",
                next_step="Ask the registry's owner; nothing of the artifact was used.",
            )
        return self._stream.write(content)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._stream.tell()

    def seek(self, position: int) -> int:
        """Move to a position in bytes."""
        return self._stream.seek(position)

    def truncate(self) -> int:
        """Cut the file off at the present position."""
        return self._stream.truncate()
