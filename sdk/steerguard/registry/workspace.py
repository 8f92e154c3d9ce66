"""Work in progress in the store of pulled artifacts: locks, scratch folders, resumable downloads, and their debris."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from steerguard.registry.disk import disk_errors
from steerguard.registry.file_lock import file_lock
from steerguard.registry.staging import sync_directory, write_durably

KEEP_PARTIAL_SECONDS = 7 * 24 * 3600
"""How long a download that nobody resumes is kept."""

_SCRATCH = "scratch-"
_SUMMARY = "The store of pulled artifacts cannot be written."


class Workspace:
    """The folders `partial/` and `locks/` of a store.

    Args:
        root: folder of the store, made when first needed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Return a folder of the store, made when absent and closed to other users.

        Raises:
            OSError: the operating system refuses.
        """
        folder = self.root / name
        if not folder.is_dir():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of this name; what dead processes left behind elsewhere is removed.

        Raises:
            ArtifactError: the operating system refuses.
        """
        with ExitStack() as held:
            with disk_errors("The store of pulled artifacts cannot be locked.", where=self.root):
                held.enter_context(file_lock(self.folder("locks") / f"{name}.lock"))
                self._recover()
            yield

    def partial(self, name: str) -> Path:
        """Return the folder of a download that can be resumed, made when absent; use it under the lock of its name.

        Raises:
            ArtifactError: the operating system refuses.
        """
        with disk_errors(_SUMMARY, where=self.root):
            self._recover()
            folder = self.folder("partial") / name
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                folder.unlink()
            folder.mkdir(exist_ok=True)
            os.utime(folder)
        return folder

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a private folder and remove it at the end; what a crash leaves behind is removed by the next user.

        Raises:
            ArtifactError: the operating system refuses.
        """
        with ExitStack() as held:
            with disk_errors(_SUMMARY, where=self.root):
                self._recover()
                folder = self._scratch_folder(held)
            yield folder

    def replace(self, file: Path, content: bytes) -> None:
        """Put a file in the place of another, flushed to the device: a reader or a crash sees the old or the new one.

        Raises:
            ArtifactError: the operating system refuses to make a scratch folder.
            OSError: it refuses what comes then.
        """
        with self.scratch() as folder:
            write_durably(folder / file.name, content)
            (folder / file.name).replace(file)
        sync_directory(file.parent)

    def keep_newest(self, name: str, count: int) -> None:
        """Remove the oldest entries of a folder of the store beyond so many.

        Raises:
            OSError: the operating system refuses to look.
        """
        aged: list[tuple[int, Path]] = []
        for entry in list(os.scandir(self.folder(name))):
            # Another process may remove the same.
            with suppress(FileNotFoundError):
                aged.append((entry.stat(follow_symlinks=False).st_ctime_ns, Path(entry.path)))
        for _, path in sorted(aged)[: max(0, len(aged) - count)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _scratch_folder(self, held: ExitStack) -> Path:
        while True:
            folder = self.folder("partial") / f"{_SCRATCH}{secrets.token_hex(8)}"
            folder.mkdir(mode=0o700)
            # Before the lock is held another process may take the new folder for debris: then make another one.
            with suppress(FileNotFoundError), ExitStack() as lock:
                lock.enter_context(file_lock(folder))
                if folder.is_dir():
                    lock.callback(shutil.rmtree, folder, ignore_errors=True)
                    held.push(lock.pop_all())
                    return folder

    def _recover(self) -> None:
        """Remove what dead processes left behind: scratch folders and empty downloads at once, others after a week."""
        for entry in list(os.scandir(self.folder("partial"))):
            path = Path(entry.path)
            with suppress(FileNotFoundError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if not entry.is_dir(follow_symlinks=False):
                    # Nothing here writes plain files.
                    path.unlink()
                elif entry.name.startswith(_SCRATCH):
                    _remove_unused(path, lock=path)
                elif age > KEEP_PARTIAL_SECONDS or not any(path.iterdir()):
                    _remove_unused(path, lock=self.folder("locks") / f"{entry.name}.lock")


def _remove_unused(folder: Path, *, lock: Path) -> None:
    with file_lock(lock, wait=False) as unused:
        if unused:
            shutil.rmtree(folder, ignore_errors=True)
