"""Changing a local registry so that a reader, or a crash, sees either the old state or the new one."""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from steerguard.errors import ArtifactError
from steerguard.registry.file_lock import file_lock

if sys.platform != "win32":
    import fcntl

STAGING_PREFIX = ".staging-"


@contextmanager
def registry_lock(root: Path) -> Iterator[None]:
    """Hold the registry's writer lock: an advisory lock on the root folder itself, so that no file is left behind.

    What dead writers left in staging is removed first.

    Raises:
        ArtifactError: the platform has no such locks.
        OSError: the folder cannot be opened.
    """
    # The folder itself may be reached through a link.
    with file_lock(root.resolve(strict=True)):
        _remove_abandoned(root)
        yield


def _remove_abandoned(root: Path) -> None:
    """Remove staging folders and files; for the holder of the lock only: whoever made them is dead."""
    for entry in list(os.scandir(root)):
        if not entry.name.startswith(STAGING_PREFIX):
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink(missing_ok=True)


@contextmanager
def staging_directory(root: Path) -> Iterator[Path]:
    """Make a private folder on the registry's own file system, under its lock, and remove it at the end, whatever happens."""
    folder = root / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder and flush each of them, and the folders, to the device."""
    folders = {folder}
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        folders.add(file.parent)
        write_durably(file, content)
    for one in folders:
        sync_directory(one)


def replace_durably(file: Path, content: bytes) -> None:
    """Put a file in the place of another, flushed to the device: a reader or a crash sees the old or the new one.

    It is staged beside its place; what other writers of this file left there when they were killed is removed.

    Raises:
        ArtifactError: the platform has no advisory locks.
        OSError: the operating system refuses.
    """
    while True:
        staged = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        try:
            with staged.open("xb") as stream:
                if not _is_held(stream.fileno(), staged):
                    continue
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
                staged.replace(file)
        finally:
            staged.unlink(missing_ok=True)
        break
    sync_directory(file.parent)
    _remove_staged(file)


def _is_held(descriptor: int, staged: Path) -> bool:
    """Lock a new staged file; False where another writer took it for abandoned before that."""
    if sys.platform == "win32":
        raise ArtifactError("Replacing a file durably needs a POSIX system.", found=sys.platform)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return staged.exists()


def _remove_staged(file: Path) -> None:
    """Remove staged files of this name that no living writer holds."""
    if sys.platform == "win32":
        return
    for staged in file.parent.glob(f".{glob.escape(file.name)}.*"):
        if re.fullmatch(r"[0-9a-f]{16}", staged.name.removeprefix(f".{file.name}.")) is None:
            continue
        with suppress(OSError), staged.open("r+b") as stream:
            # Refused by the system where a writer holds it.
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            staged.unlink()


def write_durably(file: Path, content: bytes) -> None:
    """Write a new file and flush it to the device."""
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync_directory(folder: Path) -> None:
    """Flush a folder's entries to the device, so that a rename survives a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
