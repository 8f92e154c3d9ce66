"""The bytes of an artifact's files, each with the digest that was taken while it was read.

A large file is hashed once, while its bytes are in the processor's cache, and is never copied: the digest belongs to the
very memory that tensors are made from afterwards, so nothing that happens to the file meanwhile matters.
Anything else that is a mapping of bytes may stand in its place: it is hashed when it is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steerguard.canonical import sha256_hex

Content = bytes | memoryview
"""Bytes of a small file, or the read-only memory of a large one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """One file as it was read."""

    content: Content
    """Never changed after it was hashed."""
    sha256: str
    """Lower-case hexadecimal digest of `content`."""


class ReadFiles(Mapping[str, bytes]):
    """Files by relative POSIX path. As a mapping it hands out plain bytes, and copies a large file to do so.

    Args:
        files: what was read; the caller keeps no writable view of it.
    """

    def __init__(self, files: Mapping[str, ReadFile]) -> None:
        self._files = dict(files)

    def __getitem__(self, path: str) -> bytes:
        content = self._files[path].content
        return content if isinstance(content, bytes) else content.tobytes()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: object) -> bool:
        return path in self._files

    def __or__(self, other: Mapping[str, bytes]) -> dict[str, bytes]:
        return {**self, **other}

    def read_file(self, path: str) -> ReadFile:
        """Return one file without a copy.

        Raises:
            KeyError: there is none at this path.
        """
        return self._files[path]


def content_of(files: Mapping[str, bytes], path: str) -> Content:
    """Return the bytes at a path, without a copy.

    Raises:
        KeyError: there is no file at this path.
    """
    return files.read_file(path).content if isinstance(files, ReadFiles) else files[path]


def size_of(files: Mapping[str, bytes], path: str) -> int:
    """Return how many bytes the file at a path has.

    Raises:
        KeyError: there is no file at this path.
    """
    return len(content_of(files, path))


def sha256_of(files: Mapping[str, bytes], path: str) -> str:
    """Return the lower-case hexadecimal SHA-256 of the file at a path.

    Raises:
        KeyError: there is no file at this path.
    """
    return files.read_file(path).sha256 if isinstance(files, ReadFiles) else sha256_hex(files[path])
