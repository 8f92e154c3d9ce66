"""What a commit says it holds, compared with what a manifest pins: before anything large is downloaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import (
    ATTESTATIONS,
    MANIFEST,
    MAX_ARTIFACT_BYTES,
    MAX_FILES,
    check_distinct,
    check_path,
    is_pinned,
    size_limit,
)
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError
from steerguard.registry.attestations import MAX_ATTESTATION_BYTES

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient, RemoteFile

IGNORED: Final = frozenset({".gitattributes"})
"""What the Hub itself puts into a repository; never downloaded, never removed."""

MAX_COMMIT_FILES: Final = 2 * MAX_FILES + len(IGNORED)


def artifact_tree(client: HubClient, repo: str, commit: str) -> dict[str, RemoteFile]:
    """Return the files of a commit that holds one artifact, after judging every name and size.

    Raises:
        ArtifactFormatError: a name that an artifact may not hold, too many files, or too many bytes in one or in all.
        ArtifactIntegrityError: there is no manifest.
        RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: the Hub does not answer or refuses.
    """
    where = f"{repo} at {commit}"
    tree = client.tree(repo, commit, max_files=MAX_COMMIT_FILES)
    files = {path: file for path, file in tree.items() if path not in IGNORED}
    for path, file in sorted(files.items()):
        check_path(path)
        limit = MAX_ATTESTATION_BYTES if is_attestation(path) else size_limit(path)
        if not 0 <= file.size <= limit:
            raise ArtifactFormatError(
                "A file is too large.",
                where=f"{where}: {path}",
                expected=f"at most {limit} bytes",
                found=f"{file.size} bytes",
            )
    check_distinct(sorted(files))
    total = sum(file.size for file in files.values())
    if total > MAX_ARTIFACT_BYTES:
        raise ArtifactFormatError(
            "The artifact is too large as a whole.",
            where=where,
            expected=f"at most {MAX_ARTIFACT_BYTES} bytes",
            found=f"{total} bytes",
        )
    if MANIFEST not in files:
        raise ArtifactIntegrityError("The commit holds no manifest.", where=where, expected=MANIFEST, found="absent")
    return files


def check_tree(manifest: ArtifactManifest, tree: Mapping[str, RemoteFile], *, where: str) -> None:
    """Refuse a commit whose files are not those of the manifest.

    Raises:
        ArtifactIntegrityError: a file is missing, extra, or has another size or digest.
    """
    listed = manifest.file_entries
    extra = sorted(path for path in tree if is_pinned(path) and path not in listed)
    missing = sorted(set(listed) - set(tree))
    if extra or missing:
        raise ArtifactIntegrityError(
            f"The commit does not hold the files of {manifest.reference}.",
            where=where,
            expected=f"also {', '.join(missing)}" if missing else "nothing but the listed files",
            found=f"also {', '.join(extra)}" if extra else "not all of them",
            next_step="Ask the registry's owner; nothing was downloaded.",
        )
    for path, entry in listed.items():
        remote = tree[path]
        if remote.size != entry.size or remote.sha256 not in (None, entry.sha256):
            raise ArtifactIntegrityError(
                "The commit holds another file than the manifest pins.",
                where=f"{where}: {path}",
                expected=f"{entry.size} bytes, sha256 {entry.sha256}",
                found=f"{remote.size} bytes, sha256 {remote.sha256 or 'not stated'}",
                next_step="Ask the registry's owner; nothing was downloaded.",
            )


def is_attestation(path: str) -> bool:
    """Return whether this file vouches for the artifact and lies outside its digest."""
    return path.startswith(f"{ATTESTATIONS}/")


def is_same(content: bytes | memoryview, remote: RemoteFile) -> bool:
    """Return whether the Hub describes a file of this content; a hint that saves a transfer, not a proof."""
    if remote.size != len(content):
        return False
    if remote.sha256 is not None:
        return hashlib.sha256(content).hexdigest() == remote.sha256
    blob = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    blob.update(content)
    return blob.hexdigest() == remote.git_sha1
