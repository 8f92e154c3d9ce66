"""What a commit may carry and how: regular or large files, allowed paths, and the lines of a commit request."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steerguard.testing.loopback_hub.blobs import Blobs
from steerguard.testing.loopback_hub.objects import StoredFile, large_file, regular_file
from steerguard.testing.loopback_hub.refusals import bad_request, no_entry

SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_REGULAR_BYTES = 10 * 1024 * 1024
LARGE_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx", ".parquet", ".npz", ".npy", ".zip", ".gz")
FIRST_ATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LARGE_SUFFIXES)
).encode()


def is_large(path: str, size: int) -> bool:
    """Whether a file of `size` bytes is kept outside of git: by its suffix, or above 10 MiB; an empty one never is."""
    return size > 0 and (size > MAX_REGULAR_BYTES or path.lower().endswith(LARGE_SUFFIXES))


def check_path(path: object) -> str:
    """The path, where a repository may hold it.

    Raises:
        Refusal: 400 for anything absolute, upwards, empty, with control characters or inside `.git`.
    """
    if not isinstance(path, str) or not 0 < len(path) <= 1000 or any(ord(letter) < 32 for letter in path):
        raise bad_request("Invalid file path")
    if "\\" in path or any(part in {"", ".", "..", ".git"} for part in path.split("/")):
        raise bad_request(f"Invalid file path: {path}")
    return path


@dataclass(frozen=True)
class CommitRequest:
    """The body of a commit call: one JSON document a line, the first of them the header."""

    title: str
    description: str
    parent: str | None
    operations: tuple[tuple[str, dict[str, Any]], ...]
    """Kind and value of each line after the header, in order."""


def parse_commit(body: bytes) -> CommitRequest:
    """The commit that a request asks for.

    Raises:
        Refusal: 400 where the lines are not what the client sends.
    """
    try:
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        pairs = [(line["key"], line["value"]) for line in lines]
    except (ValueError, KeyError, TypeError) as problem:
        raise bad_request("The commit is not made of JSON lines with key and value") from problem
    if not pairs or pairs[0][0] != "header" or not all(isinstance(value, dict) for _, value in pairs):
        raise bad_request("The commit does not begin with a header")
    header = pairs[0][1]
    title = header.get("summary")
    if not isinstance(title, str) or not title:
        raise bad_request("The commit has no summary")
    if len(pairs) == 1:
        raise bad_request("The commit changes nothing")
    return CommitRequest(
        title=title,
        description=str(header.get("description") or ""),
        parent=header.get("parentCommit"),
        operations=tuple(pairs[1:]),
    )


def apply_operations(
    files: Mapping[str, StoredFile],
    request: CommitRequest,
    blobs: Blobs,
    commit: str,
    *,
    max_regular_bytes: int = MAX_REGULAR_BYTES,
) -> dict[str, StoredFile]:
    """The files after a commit, operations applied in order.

    Args:
        files: the files before.
        request: what to do.
        blobs: holds the uploaded large files, and takes the regular ones.
        commit: id of the commit before, for messages.
        max_regular_bytes: largest file that git itself keeps, in bytes.

    Raises:
        Refusal: 400 for an unknown operation, a bad path, a large file that was never uploaded or is of another size;
            404 for the deletion of what is not there.
    """
    after = dict(files)
    for kind, value in request.operations:
        path = check_path(str(value.get("path", "")).rstrip("/") if kind == "deletedFolder" else value.get("path"))
        if kind == "file":
            after[path] = _regular(path, value, blobs, max_regular_bytes)
        elif kind == "lfsFile":
            after[path] = _large(path, value, blobs)
        elif kind == "deletedFile":
            if path not in after:
                raise no_entry(path, commit)
            del after[path]
        elif kind == "deletedFolder":
            inside = [name for name in after if name.startswith(f"{path}/")]
            if not inside:
                raise no_entry(path, commit)
            for name in inside:
                del after[name]
        else:
            raise bad_request(f"Unknown operation: {kind}")
    _check_folders(after)
    return after


def _regular(path: str, value: Mapping[str, Any], blobs: Blobs, max_bytes: int) -> StoredFile:
    content = value.get("content")
    if not isinstance(content, str):
        raise bad_request(f"No content: {path}")
    try:
        raw = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
    except binascii.Error as problem:
        raise bad_request(f"The content is not base64: {path}") from problem
    if len(raw) > max_bytes:
        raise bad_request(f"Files of more than {max_bytes} bytes are uploaded as large files: {path}")
    blobs.put(raw)
    return regular_file(path, raw)


def _large(path: str, value: Mapping[str, Any], blobs: Blobs) -> StoredFile:
    oid = value.get("oid")
    if not isinstance(oid, str) or not SHA256.fullmatch(oid) or value.get("algo", "sha256") != "sha256":
        raise bad_request(f"The large file is not named by its sha256: {path}")
    size = blobs.size(oid)
    if size is None:
        raise bad_request(f"The large file was not uploaded: {path}")
    if value.get("size", size) != size:
        raise bad_request(f"The large file has another size: {path}")
    return large_file(path, oid, size)


def _check_folders(files: Mapping[str, StoredFile]) -> None:
    for path in files:
        folder = path.rpartition("/")[0]
        while folder:
            if folder in files:
                raise bad_request(f"A file and a folder have one name: {folder}")
            folder = folder.rpartition("/")[0]
