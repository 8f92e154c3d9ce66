"""Where the bytes lie: a store by sha256, in memory or in a folder that outlives the process."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Protocol


class Blobs(Protocol):
    """Bytes by their sha256 (64 hexadecimal digits); nothing is ever removed or changed."""

    def put(self, content: bytes) -> str:
        """Keep the bytes and return their sha256."""
        ...

    def size(self, sha256: str) -> int | None:
        """Bytes of the content, or None where it is not there."""
        ...

    def read(self, sha256: str) -> bytes:
        """The content; KeyError where it is not there."""
        ...


class MemoryBlobs:
    """Bytes in memory, gone with the process."""

    def __init__(self) -> None:
        self._content: dict[str, bytes] = {}

    def put(self, content: bytes) -> str:
        """Keep the bytes and return their sha256."""
        digest = hashlib.sha256(content).hexdigest()
        self._content.setdefault(digest, content)
        return digest

    def size(self, sha256: str) -> int | None:
        """Bytes of the content, or None where it is not there."""
        content = self._content.get(sha256)
        return None if content is None else len(content)

    def read(self, sha256: str) -> bytes:
        """The content; KeyError where it is not there."""
        return self._content[sha256]


class FolderBlobs:
    """Bytes as files `<root>/<first two digits>/<sha256>`; each appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, content: bytes) -> str:
        """Keep the bytes and return their sha256."""
        digest = hashlib.sha256(content).hexdigest()
        path = self._path(digest)
        if not path.exists():
            write_whole(path, content)
        return digest

    def size(self, sha256: str) -> int | None:
        """Bytes of the content, or None where it is not there."""
        path = self._path(sha256)
        return path.stat().st_size if path.exists() else None

    def read(self, sha256: str) -> bytes:
        """The content; KeyError where it is not there."""
        path = self._path(sha256)
        if not path.exists():
            raise KeyError(sha256)
        return path.read_bytes()

    def _path(self, sha256: str) -> Path:
        return self._root / sha256[:2] / sha256


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers, and a process that is killed, see the old content or the new one, never a part.

    Args:
        path: the file; its folder is made.
        content: all of its bytes.

    Raises:
        OSError: the folder cannot be written, or the disk is full; the old file is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
