"""Changing a local registry so that a reader, or a crash, sees either the old state or the new one."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steerguard.errors import ArtifactError

if sys.platform != "win32":
    import fcntl

STAGING_PREFIX = ".staging-"


@contextmanager
def registry_lock(root: Path) -> Iterator[None]:
    """Hold the registry's writer lock: an advisory lock on the root folder itself, so that no file is left behind.

    Raises:
        ArtifactError: the platform has no such locks.
        OSError: the folder cannot be opened.
    """
    if sys.platform == "win32":
        raise ArtifactError("Adding to a registry needs a POSIX system.", found=sys.platform)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def staging_directory(root: Path) -> Iterator[Path]:
    """Make a private folder on the registry's own file system and remove it at the end, whatever happens."""
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
