"""Whether a folder holds exactly the artifact that a digest pins: every byte is hashed, nothing is kept in memory."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from steerguard.artifacts.integrity import pinned_manifest
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import MANIFEST, MAX_MANIFEST_BYTES, is_pinned
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError, ArtifactNotFoundError
from steerguard.registry.folder import list_folder, read_file, require_directory


def check_pinned_folder(folder: Path, digest: str) -> ArtifactManifest:
    """Return the manifest of the artifact in a folder after comparing every file with it.

    Args:
        folder: holds `manifest.json` and what it lists; files under `attestations/` are named but not hashed.
        digest: `sha256:<hex>` of the manifest.

    Raises:
        ArtifactNotFoundError: the folder or its manifest does not exist.
        ArtifactIntegrityError: bytes differ from what pins them, or files are missing or extra.
        ArtifactFormatError: a name, link, special file or document is not what the format allows.
        OSError: the operating system refuses.
    """
    require_directory(folder)
    try:
        content = read_file(folder / MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    except FileNotFoundError as error:
        raise ArtifactNotFoundError("The artifact has no manifest.", where=folder / MANIFEST) from error
    manifest = pinned_manifest(content, digest, where=str(folder))
    paths = list_folder(folder)
    listed = manifest.file_entries
    extra = sorted(path for path in paths if is_pinned(path) and path not in listed)
    missing = sorted(set(listed) - set(paths))
    if extra or missing:
        raise ArtifactIntegrityError(
            f"The folder does not hold the files of artifact {manifest.reference}.",
            where=folder,
            expected=f"also {', '.join(missing)}" if missing else "nothing but the listed files",
            found=f"also {', '.join(extra)}" if extra else "not all of them",
        )
    for path, entry in listed.items():
        check_file(folder / path, sha256=entry.sha256, size=entry.size)
    return manifest


def check_file(file: Path, *, sha256: str, size: int) -> None:
    """Refuse a file that has not this size and digest.

    Raises:
        ArtifactFormatError: it is not a regular file.
        ArtifactIntegrityError: it has another size or digest.
        OSError: the operating system refuses.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if stat.S_ISLNK(file.lstat().st_mode):
        raise ArtifactFormatError("An artifact consists of regular files.", where=file, found="a symlink")
    with os.fdopen(os.open(file, flags), "rb") as stream:
        state = os.fstat(stream.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ArtifactFormatError("An artifact consists of regular files.", where=file, found="a special file")
        if state.st_size != size:
            raise ArtifactIntegrityError(
                "A file has another size.", where=file, expected=f"{size} bytes", found=f"{state.st_size} bytes"
            )
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ArtifactIntegrityError("A file has another digest.", where=file, expected=sha256, found=found)
