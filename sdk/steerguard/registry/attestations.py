"""Reading the files that vouch for an artifact. They lie outside its digest, and anybody can have put them there."""

from __future__ import annotations

import os
from pathlib import Path

from steerguard.artifacts.paths import ATTESTATIONS, MAX_FILES, check_path
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactNotFoundError
from steerguard.registry.folder import read_file, require_directory

MAX_ATTESTATION_BYTES = 8 * 1024 * 1024


def read_attestations(folder: Path) -> dict[str, bytes]:
    """Return the files below `attestations/` of an artifact's folder by relative POSIX path; empty without that folder.

    Raises:
        ArtifactNotFoundError: the artifact's folder does not exist.
        ArtifactFormatError: a symlink, special file, foreign name or oversized file stands there, or too many files.
        ArtifactError: the operating system refuses to read.
    """
    require_directory(folder)
    try:
        require_directory(folder / ATTESTATIONS)
    except ArtifactNotFoundError:
        return {}
    try:
        with os.scandir(folder / ATTESTATIONS) as listed:
            paths = sorted(f"{ATTESTATIONS}/{entry.name}" for entry in listed)
        if len(paths) > MAX_FILES:
            raise ArtifactFormatError(
                "The artifact has too many attestations.",
                where=folder,
                expected=f"at most {MAX_FILES}",
                found=len(paths),
            )
        for path in paths:
            check_path(path)
        return {path: read_file(folder / path, max_bytes=MAX_ATTESTATION_BYTES) for path in paths}
    except OSError as error:
        where = folder if error.filename is None else Path(error.filename)
        raise ArtifactError("The attestations cannot be read.", where=where, found=error.strerror) from error
