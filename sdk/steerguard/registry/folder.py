"""Reading an artifact's folder without following anything that it did not come with.

Every file is read once and hashed while it is read.

Symlinks, devices, pipes, foreign names and oversized files are refused before their content is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from steerguard.artifacts.contents import ReadFile, ReadFiles
from steerguard.artifacts.paths import (
    DIRECTORIES,
    MAX_ARTIFACT_BYTES,
    MAX_FILES,
    check_distinct,
    check_path,
    size_limit,
)
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactNotFoundError
from steerguard.registry.reading import LARGE_BYTES, read_and_hash

# Where the platform has no such flags the check by lstat stands alone.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def read_folder(folder: Path) -> ReadFiles:
    """Return the content of every file of an artifact by relative POSIX path, with its digest.

    Raises:
        ArtifactNotFoundError: the folder does not exist.
        ArtifactFormatError: the folder holds what an artifact may not hold.
        ArtifactError: the operating system refuses to read.
    """
    require_directory(folder)
    try:
        paths = list_folder(folder)
        _check_total(folder, paths)
        return ReadFiles({path: _read(folder / path, size_limit(path)) for path in paths})
    except OSError as error:
        where = folder if error.filename is None else Path(error.filename)
        raise ArtifactError("The artifact cannot be read.", where=where, found=error.strerror) from error


def require_directory(folder: Path) -> None:
    """Refuse what is not a real directory.

    Raises:
        ArtifactNotFoundError: nothing is there.
        ArtifactFormatError: it is a symlink or a file.
        ArtifactError: the operating system refuses to look.
    """
    try:
        mode = folder.lstat().st_mode
    except FileNotFoundError as error:
        raise ArtifactNotFoundError("The artifact's folder does not exist.", where=folder) from error
    except OSError as error:
        raise ArtifactError("The artifact's folder cannot be read.", where=folder, found=error.strerror) from error
    if not stat.S_ISDIR(mode):
        raise ArtifactFormatError(
            "An artifact consists of real folders.", where=folder, expected="a folder", found=_kind(mode)
        )


def list_folder(folder: Path) -> tuple[str, ...]:
    """Return the relative POSIX paths of an artifact's files, sorted, after judging every name.

    Raises:
        ArtifactFormatError: a name or folder that an artifact may not hold, or too many files.
        OSError: the operating system refuses.
    """
    paths: list[str] = []
    with os.scandir(folder) as listed:
        for entry in listed:
            if entry.name in DIRECTORIES:
                require_directory(Path(entry.path))
                with os.scandir(entry.path) as inside:
                    paths.extend(f"{entry.name}/{inner.name}" for inner in inside)
            else:
                paths.append(entry.name)
            if len(paths) > 2 * MAX_FILES:
                raise ArtifactFormatError("The artifact has too many files.", where=folder, expected=2 * MAX_FILES)
    for path in sorted(paths):
        check_path(path)
    check_distinct(sorted(paths))
    return tuple(sorted(paths))


def read_file(file: Path, *, max_bytes: int) -> bytes:
    """Return the content of a regular file of bounded size, as plain bytes.

    Raises:
        ArtifactFormatError: a symlink, a special file, or larger than `max_bytes`.
        ArtifactError: the file was cut off while it was read.
        OSError: the operating system refuses.
    """
    content = _read(file, max_bytes, large=max_bytes + 1).content
    return bytes(content)


def _read(file: Path, limit: int, *, large: int = LARGE_BYTES) -> ReadFile:
    _require_regular(file, file.lstat().st_mode)
    descriptor = os.open(file, _OPEN_FLAGS)
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        found = os.fstat(descriptor)
        _require_regular(file, found.st_mode)
        if found.st_size > limit:
            raise ArtifactFormatError(
                "A file is too large.", where=file, expected=f"at most {limit} bytes", found=f"{found.st_size} bytes"
            )
        read = read_and_hash(stream, found.st_size, large=large)
    if len(read.content) != found.st_size:
        raise ArtifactError(
            "A file was cut off while it was read.",
            where=file,
            expected=f"{found.st_size} bytes",
            found=f"{len(read.content)} bytes",
            next_step="Wait until nothing writes to the folder, then try again.",
        )
    return read


def _check_total(folder: Path, paths: tuple[str, ...]) -> None:
    """Refuse an artifact that is too large as a whole, before any of it is read."""
    total = sum((folder / path).lstat().st_size for path in paths)
    if total > MAX_ARTIFACT_BYTES:
        raise ArtifactFormatError(
            "The artifact is too large.", where=folder, expected=f"at most {MAX_ARTIFACT_BYTES} bytes", found=total
        )


def _require_regular(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ArtifactFormatError(
            "An artifact consists of regular files.", where=file, expected="a regular file", found=_kind(mode)
        )


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISLNK, "a symlink"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for matches, name in kinds if matches(mode)), "a device")
