"""Which file names an artifact may hold, and how large a file may be.

A name is legal only when it stands in this short list: anything else (code, pickles, hidden files) is refused both when
an artifact is written and when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from steerguard.errors import ArtifactFormatError

MANIFEST = "manifest.json"
CALIBRATION = "calibration.json"
BENCHMARKS = "benchmarks.json"
CARD = "README.md"
RECIPE = "recipe.yaml"
WEIGHTS = "weights"
ATTESTATIONS = "attestations"

DIRECTORIES: tuple[str, ...] = (WEIGHTS, ATTESTATIONS)
"""The only sub-folders of an artifact; neither has sub-folders of its own."""

MAX_WEIGHTS_BYTES = 4 * 1024**3
"""Largest file under `weights/`."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Largest file of any other kind."""
MAX_ARTIFACT_BYTES = 8 * 1024**3
"""All files of an artifact together, so that reading one cannot use up any machine."""
MAX_MANIFEST_BYTES = 1024 * 1024
MAX_FILES = 64

_ALLOWED = re.compile(
    r"(?:manifest\.json|calibration\.json|benchmarks\.json|README\.md|recipe\.yaml"
    r"|weights/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.safetensors"
    r"|attestations/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\.json)"
)
_CHOICES = (
    f"{MANIFEST}, {CALIBRATION}, {BENCHMARKS}, {CARD}, {RECIPE}, {WEIGHTS}/<name>.safetensors or "
    f"{ATTESTATIONS}/<name>.json"
)


def check_path(path: str) -> None:
    """Refuse a path that an artifact may not hold.

    Paths are relative and POSIX; the allow-list has no `..`, no backslash, no leading slash and no hidden names.

    Raises:
        ArtifactFormatError: the path is not on the allow-list.
    """
    if _ALLOWED.fullmatch(path) is None:
        raise ArtifactFormatError(
            "An artifact may not hold a file of this name.",
            where=repr(path[:200]),
            expected=_CHOICES,
            next_step="Remove the file, or build the artifact again.",
        )


def check_distinct(paths: Iterable[str]) -> None:
    """Refuse paths that are equal, or equal on a file system that ignores case.

    Raises:
        ArtifactFormatError: two paths collide.
    """
    seen: dict[str, str] = {}
    for path in paths:
        folded = path.casefold()
        if folded in seen:
            raise ArtifactFormatError(
                "An artifact lists the same file twice.",
                where=repr(path),
                expected="every path once, also on file systems that ignore case",
                found=f"{seen[folded]!r} and {path!r}",
            )
        seen[folded] = path


def is_pinned(path: str) -> bool:
    """Return whether the manifest must list this file: all but the manifest itself and `attestations/`."""
    return path != MANIFEST and not path.startswith(f"{ATTESTATIONS}/")


def is_weights(path: str) -> bool:
    """Return whether this file holds tensors."""
    return path.startswith(f"{WEIGHTS}/")


def size_limit(path: str) -> int:
    """Return how many bytes the file at this path may have."""
    if path == MANIFEST:
        return MAX_MANIFEST_BYTES
    return MAX_WEIGHTS_BYTES if is_weights(path) else MAX_FILE_BYTES
