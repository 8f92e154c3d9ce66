"""Reading an artifact's folder without following anything that it did not come with.

Symlinks, devices, pipes, foreign names and oversized files are refused before their content is read.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from steerguard.artifacts.paths import DIRECTORIES, MAX_FILE_BYTES, MAX_FILES, check_path
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactNotFoundError

# Where the platform has no such flags the check by lstat stands alone.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of an artifact by relative POSIX path.

    Raises:
        ArtifactNotFoundError: the folder does not exist.
        ArtifactFormatError: the folder holds what an artifact may not hold.
        ArtifactError: the operating system refuses to read.
    """
    require_directory(folder)
    try:
        paths = _list(folder)
        return {path: read_file(folder / path, max_bytes=MAX_FILE_BYTES) for path in paths}
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


def read_file(file: Path, *, max_bytes: int) -> bytes:
    """Return the content of a regular file of bounded size.

    Raises:
        ArtifactFormatError: a symlink, a special file, or larger than `max_bytes`.
        OSError: the operating system refuses.
    """
    _require_regular(file, file.lstat().st_mode)
    descriptor = os.open(file, _OPEN_FLAGS)
    with os.fdopen(descriptor, "rb") as stream:
        _require_regular(file, os.fstat(descriptor).st_mode)
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ArtifactFormatError("A file is too large.", where=file, expected=f"at most {max_bytes} bytes")
    return content


def _list(folder: Path) -> list[str]:
    paths: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name in DIRECTORIES:
            require_directory(Path(entry.path))
            paths.extend(f"{entry.name}/{inner.name}" for inner in os.scandir(entry.path))
        else:
            paths.append(entry.name)
    if len(paths) > 2 * MAX_FILES:
        raise ArtifactFormatError(
            "The artifact has too many files.", where=folder, expected=2 * MAX_FILES, found=len(paths)
        )
    for path in sorted(paths):
        check_path(path)
    return sorted(paths)


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
