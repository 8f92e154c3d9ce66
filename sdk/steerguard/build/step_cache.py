"""Results of build steps on disk, keyed by content, so that a killed build resumes where it stopped.

The key of a step is the digest of its name, of everything that it depends on (prompt texts, weights digest, settings,
seed), and of what computes it: versions of this package and of its libraries, and the thread count. A result is one
safetensors file, written to a temporary name and renamed, so that a file that exists is whole. Prompt texts enter the
key as digests; only tensors are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerguard.canonical import digest
from steerguard.errors import BuildError
from steerguard.version import __version__

# Raise it when the meaning of a cached step changes: older files are then never read.
_FORMAT = 1
# What computes the results: another version may round, order or draw otherwise.
_LIBRARIES = ("torch", "transformers", "numpy", "scikit-learn")


class StepCache:
    """A folder of step results.

    Args:
        folder: where the files go; made when the first step is stored. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.reused: list[str] = []
        """Names of the steps that were read from disk, in order."""

    def run(
        self, name: str, depends_on: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return the stored result of the step, or compute and store it.

        Args:
            name: step name, part of the file name.
            depends_on: JSON data (no floats: decimal strings) that the result is a function of.
            compute: does the work; called only when no stored result exists.

        Raises:
            BuildError: a stored result cannot be read or a new one cannot be written.
        """
        if self._folder is None:
            return compute()
        content = {"format": _FORMAT, "step": name, "inputs": dict(depends_on), "made_with": made_with()}
        key = digest(content).removeprefix("sha256:")
        path = self._folder / f"{name}-{key[:32]}.safetensors"
        if not path.is_file():
            with self._alone(path):
                if not path.is_file():
                    result = {label: tensor.detach().contiguous() for label, tensor in compute().items()}
                    self._store(path, result)
                    return result
        self.reused.append(name)
        return self._load(path)

    @staticmethod
    @contextmanager
    def _alone(path: Path) -> Iterator[None]:
        """Hold the step's lock: of builds that run side by side one computes, the others wait and read its result.

        The operating system drops the lock of a build that was killed. The lock's file goes with it: a third build that
        comes in that moment computes as well, and stores the same.
        """
        file = path.with_suffix(".lock")
        lock = FileLock(file)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise _not_stored(path.parent) from error
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            lock.release()

    @staticmethod
    def _load(path: Path) -> dict[str, Tensor]:
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise BuildError(
                "A cached build step cannot be read.",
                where=path,
                next_step="delete the file and run the build again",
            ) from error

    @staticmethod
    def _store(path: Path, result: dict[str, Tensor]) -> None:
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            save_file(result, staging)
            staging.replace(path)
        except (OSError, SafetensorError) as error:
            staging.unlink(missing_ok=True)
            raise _not_stored(path.parent) from error


def _not_stored(folder: Path) -> BuildError:
    return BuildError(
        "The result of a build step cannot be stored.",
        where=folder,
        next_step="free disk space or choose another cache folder with --cache",
    )


def made_with() -> dict[str, Any]:
    """Return what computes a step now: versions, None for a library that is not installed, and torch's thread count."""
    return {
        "steerguard": __version__,
        "libraries": {name: _installed(name) for name in _LIBRARIES},
        "threads": torch.get_num_threads(),
    }


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
