"""Results of build steps on disk, keyed by content, so that a killed build resumes where it stopped.

The key of a step is the digest of its name and of everything that it depends on (prompt texts, weights digest,
settings, seed). A result is one safetensors file, written to a temporary name and renamed, so that a file that
exists is whole. Prompt texts enter the key as digests; only tensors are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerguard.canonical import digest
from steerguard.errors import BuildError

# Raise it when the meaning of a cached step changes: older files are then never read.
_FORMAT = 1


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
        key = digest({"format": _FORMAT, "step": name, "inputs": dict(depends_on)}).removeprefix("sha256:")
        path = self._folder / f"{name}-{key[:32]}.safetensors"
        if path.is_file():
            self.reused.append(name)
            return self._load(path)
        result = {label: tensor.detach().contiguous() for label, tensor in compute().items()}
        self._store(path, result)
        return result

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
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(result, staging)
            staging.replace(path)
        except (OSError, SafetensorError) as error:
            staging.unlink(missing_ok=True)
            raise BuildError(
                "The result of a build step cannot be stored.",
                where=path.parent,
                next_step="free disk space or choose another cache folder with --cache",
            ) from error
