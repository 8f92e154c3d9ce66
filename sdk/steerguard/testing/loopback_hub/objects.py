"""What a git commit is made of: blobs, large-file pointers and trees, with the same ids as git gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

FILE_MODE = b"100644"
FOLDER_MODE = b"40000"


def blob_oid(content: bytes) -> str:
    """Git's id of a blob: 40 hexadecimal digits of SHA-1 over a header and the bytes."""
    return _oid(b"blob", content)


def large_file_pointer(sha256: str, size: int) -> bytes:
    """The text that git keeps in place of a large file of `size` bytes."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit; its bytes lie in the blob store under `sha256`."""

    path: str
    size: int
    """Bytes of the file itself, never of its pointer."""

    sha256: str
    oid: str
    """Git's id of the content, or of the pointer where the file is a large one."""

    lfs: bool

    @property
    def etag(self) -> str:
        """What names the bytes in HTTP: sha256 of a large file, git's id of any other."""
        return self.sha256 if self.lfs else self.oid

    @property
    def pointer_size(self) -> int:
        """Bytes of the pointer of a large file."""
        return len(large_file_pointer(self.sha256, self.size))


def regular_file(path: str, content: bytes) -> StoredFile:
    """The entry of a file that git keeps as it is."""
    digest = hashlib.sha256(content).hexdigest()
    return StoredFile(path=path, size=len(content), sha256=digest, oid=blob_oid(content), lfs=False)


def large_file(path: str, sha256: str, size: int) -> StoredFile:
    """The entry of a file that git keeps as a pointer."""
    return StoredFile(path=path, size=size, sha256=sha256, oid=blob_oid(large_file_pointer(sha256, size)), lfs=True)


def folder_oids(files: Iterable[StoredFile]) -> dict[str, str]:
    """Git's tree id of every folder of a commit; the key of the root is the empty text."""
    children: dict[str, dict[str, StoredFile | None]] = {"": {}}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        children.setdefault(folder, {})[name] = file
        while folder:
            parent, _, name = folder.rpartition("/")
            children.setdefault(parent, {})[name] = None
            folder = parent
    oids: dict[str, str] = {}
    for folder in sorted(children, key=_depth, reverse=True):
        lines = []
        for name, child in sorted(children[folder].items(), key=_git_order):
            oid = child.oid if child else oids[f"{folder}/{name}" if folder else name]
            mode = FILE_MODE if child else FOLDER_MODE
            lines.append(mode + b" " + name.encode() + b"\0" + bytes.fromhex(oid))
        oids[folder] = _oid(b"tree", b"".join(lines))
    return oids


def commit_oid(tree: str, parent: str | None, message: str, counter: int) -> str:
    """The id of a commit: SHA-1 over tree, parent, message and its number in the repository, so that none occurs twice."""
    return _oid(b"commit", f"{tree}\n{parent or ''}\n{counter}\n{message}".encode())


def _oid(kind: bytes, content: bytes) -> str:
    return hashlib.sha1(kind + b" " + str(len(content)).encode() + b"\0" + content, usedforsecurity=False).hexdigest()


def _depth(folder: str) -> int:
    return folder.count("/") + 1 if folder else 0


def _git_order(item: tuple[str, StoredFile | None]) -> bytes:
    name, child = item
    return name.encode() if child else name.encode() + b"/"
