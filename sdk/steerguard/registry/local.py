"""A registry in a folder: `root/<family>/<variant>/<version>/…` and `root/index.json` that pins every manifest.

Only what the index lists exists: a folder that it does not list is never read.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from steerguard.artifacts.integrity import check_integrity, located, pinned_manifest
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import ATTESTATIONS, MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES, check_path
from steerguard.content import registry_directory
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactIntegrityError, ArtifactNotFoundError
from steerguard.registry.attestations import MAX_ATTESTATION_BYTES, read_attestations
from steerguard.registry.folder import read_file, read_folder, require_directory
from steerguard.registry.index import (
    INDEX,
    MAX_INDEX_BYTES,
    IndexEntry,
    RegistryIndex,
    index_bytes,
    index_of,
    parse_index,
)
from steerguard.registry.names import EMBEDDED
from steerguard.registry.staging import (
    STAGING_PREFIX,
    registry_lock,
    staging_directory,
    sync_directory,
    write_durably,
    write_files,
)
from steerguard.registry.store import PinnedManifest, families_of, pinned_of


class LocalDirectory:
    """A `PublishingStore` in a local folder.

    Args:
        root: folder that holds `index.json`.
        name: name of the registry; the folder's `file://` URL by default.
    """

    def __init__(self, root: Path | str, *, name: str | None = None) -> None:
        self.root = Path(root)
        # A name stays what the user wrote: links are not followed.
        self.name = Path(os.path.abspath(root)).as_uri() if name is None else name  # noqa: PTH100

    def families(self) -> tuple[str, ...]:
        """Return the names of all families, sorted.

        Raises:
            ArtifactNotFoundError: the folder is not a registry.
            ArtifactFormatError: the index is malformed.
        """
        return families_of(self)

    def entries(self) -> tuple[IndexEntry, ...]:
        """Return what the index lists, sorted; no manifest is read.

        Raises:
            ArtifactNotFoundError: the folder is not a registry.
            ArtifactFormatError: the index is malformed.
        """
        return self._index().artifacts

    def pinned(self, family: str) -> tuple[PinnedManifest, ...]:
        """Return every variant and version of a family, highest version first; empty when there is none.

        Raises:
            ArtifactNotFoundError: the folder is not a registry, or a listed artifact is absent.
            ArtifactIntegrityError: a manifest has not the digest that the index pins.
            ArtifactFormatError: the index or a manifest is malformed, or they name different artifacts.
        """
        return pinned_of(self, family)

    def attestations(self, entry: IndexEntry) -> Mapping[str, bytes]:
        """Return the unverified files that vouch for one artifact, by path `attestations/<name>.json`.

        Raises:
            ArtifactNotFoundError: the artifact is not there.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands among them.
            ArtifactError: the operating system refuses.
        """
        with located(entry.reference):
            return read_attestations(self._folder(entry.family, entry.variant, entry.version))

    def attest(self, entry: IndexEntry, path: str, content: bytes) -> None:
        """Put one file that vouches for a listed artifact beside it: all of it or nothing.

        The file is written into a staging folder, flushed and renamed, under the registry's lock; a file of the same
        path is replaced. Attestations lie outside the digest: the artifact stays what it is.

        Args:
            entry: an entry of this registry's index.
            path: `attestations/<name>.json`.
            content: the file; it is stored, not judged.

        Raises:
            ArtifactNotFoundError: the index does not list this digest under this name.
            ArtifactFormatError: the path or the size is not allowed, or there are too many attestations.
            ArtifactError: the operating system refuses, for example because the disk is full.
        """
        check_path(path)
        if not path.startswith(f"{ATTESTATIONS}/") or len(content) > MAX_ATTESTATION_BYTES:
            raise ArtifactFormatError(
                "This cannot be stored as an attestation.",
                where=path,
                expected=f"{ATTESTATIONS}/<name>.json of at most {MAX_ATTESTATION_BYTES} bytes",
                found=f"{len(content)} bytes",
            )
        try:
            with registry_lock(self.root):
                self._attest(entry, path, content)
        except OSError as error:
            raise ArtifactError(
                f"The attestation of {entry.reference} could not be stored.",
                where=self.root,
                found=error.strerror or type(error).__name__,
                next_step="Free space or correct the permissions, then do it again.",
            ) from error

    def _attest(self, entry: IndexEntry, path: str, content: bytes) -> None:
        if not any(listed.key == entry.key and listed.digest == entry.digest for listed in self._index().artifacts):
            raise ArtifactNotFoundError(
                f"The registry does not list {entry.reference} with this digest.",
                where=self.root,
                expected=entry.digest,
                next_step="Add the artifact first.",
            )
        folder = self._folder(entry.family, entry.variant, entry.version)
        stored = read_attestations(folder)
        if path not in stored and len(stored) >= MAX_FILES:
            raise ArtifactFormatError(
                "The artifact has too many attestations.", where=folder, expected=f"at most {MAX_FILES}"
            )
        with staging_directory(self.root) as staging:
            write_durably(staging / "attestation", content)
            fresh = not (folder / ATTESTATIONS).exists()
            (folder / ATTESTATIONS).mkdir(exist_ok=True)
            try:
                (staging / "attestation").replace(folder / path)
                sync_directory(folder / ATTESTATIONS)
                sync_directory(folder)
            except OSError:
                if fresh:
                    _remove_empty(folder / ATTESTATIONS)
                raise

    def pin(self, entry: IndexEntry) -> PinnedManifest:
        """Return the manifest of one entry of the index.

        Raises:
            ArtifactNotFoundError: the listed artifact is absent.
            ArtifactIntegrityError: the manifest has not the digest that the index pins.
            ArtifactFormatError: the manifest is malformed, or names another artifact.
        """
        file = self._folder(entry.family, entry.variant, entry.version) / MANIFEST
        try:
            content = read_file(file, max_bytes=MAX_MANIFEST_BYTES)
        except FileNotFoundError as error:
            raise ArtifactNotFoundError(
                f"Artifact {entry.reference} is in the index but not in the registry.", where=file
            ) from error
        except OSError as error:
            raise ArtifactError("A manifest cannot be read.", where=file, found=error.strerror) from error
        manifest = pinned_manifest(content, entry.digest, where=entry.reference)
        if manifest.reference != entry.reference:
            raise ArtifactFormatError(
                "Index and manifest name different artifacts.",
                where=file,
                expected=entry.reference,
                found=manifest.reference,
            )
        return PinnedManifest(
            family=entry.family,
            variant=entry.variant,
            version=entry.version,
            digest=entry.digest,
            manifest=manifest,
        )

    def read(self, pin: PinnedManifest) -> Mapping[str, bytes]:
        """Return the content of every file of one artifact, unverified: `verify_artifact` judges it.

        Raises:
            ArtifactNotFoundError: the artifact is not there.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands in its folder.
            ArtifactError: the operating system refuses.
        """
        with located(pin.reference):
            return read_folder(self._folder(pin.family, pin.variant, pin.version))

    def add(self, folder: Path, *, digest: str | None = None) -> PinnedManifest:
        """Add the artifact in a folder: all of it or nothing.

        The artifact is checked against its own manifest, copied into a staging folder, flushed and renamed; the index
        is replaced last, under the registry's lock. Adding the same artifact again changes nothing.

        Args:
            folder: the artifact.
            digest: digest that its manifest must have: of what was judged before, should the folder have changed.

        Raises:
            ArtifactIntegrityError: the artifact is damaged or another one, or the version exists with another digest.
            ArtifactFormatError: the artifact is malformed.
            ArtifactError: the operating system refuses, for example because the disk is full.
        """
        files = read_folder(folder)
        digest = digest or manifest_digest(files.get(MANIFEST, b""))
        manifest, _ = check_integrity(files, digest, where=str(folder))
        entry = IndexEntry(family=manifest.family, variant=manifest.variant, version=manifest.version, digest=digest)
        try:
            with registry_lock(self.root):
                self._add(entry, files)
        except OSError as error:
            raise ArtifactError(
                f"Artifact {entry.reference} could not be added.",
                where=self.root,
                found=error.strerror or type(error).__name__,
                next_step="Free space or correct the permissions, then add it again.",
            ) from error
        return self.pin(entry)

    def _add(self, entry: IndexEntry, files: Mapping[str, bytes]) -> None:
        index = self._index()
        for existing in index.artifacts:
            if existing.key == entry.key and existing.digest == entry.digest:
                return
            if existing.key == entry.key:
                raise ArtifactIntegrityError(
                    f"Artifact {entry.reference} exists already, with other content.",
                    where=self.root,
                    expected=existing.digest,
                    found=entry.digest,
                    next_step="Artifacts never change: give the new one a higher version.",
                )
        target = self.root / entry.family / entry.variant / entry.version
        with staging_directory(self.root) as staging:
            write_files(staging / "artifact", files)
            write_durably(staging / INDEX, index_bytes(index_of((*index.artifacts, entry))))
            try:
                for parent in (target.parent.parent, target.parent):
                    parent.mkdir(exist_ok=True)
                    require_directory(parent)
                if target.exists():
                    # The index does not list it: what an interrupted addition left behind.
                    target.rename(staging / "abandoned")
                (staging / "artifact").rename(target)
                sync_directory(target.parent)
                sync_directory(target.parent.parent)
                (staging / INDEX).replace(self.root / INDEX)
            except OSError:
                with suppress(OSError):
                    target.rename(staging / "withdrawn")
                _remove_empty(target.parent, target.parent.parent)
                raise
            sync_directory(self.root)

    def _index(self) -> RegistryIndex:
        try:
            content = read_file(self.root / INDEX, max_bytes=MAX_INDEX_BYTES)
        except FileNotFoundError as error:
            raise ArtifactNotFoundError(
                "This folder is not a registry.", where=self.root, expected=f"a folder with {INDEX}", found="no index"
            ) from error
        except OSError as error:
            raise ArtifactError("The index cannot be read.", where=self.root / INDEX, found=error.strerror) from error
        return parse_index(content, where=str(self.root / INDEX))

    def _folder(self, family: str, variant: str, version: str) -> Path:
        """Return the artifact's folder after refusing symlinks on the way from the root."""
        folder = self.root
        for part in (family, variant, version):
            folder /= part
            require_directory(folder)
        return folder


def embedded_registry() -> LocalDirectory:
    """Return the registry that ships with the package.

    Raises:
        ContentError: the package's data files are missing.
    """
    return LocalDirectory(registry_directory(), name=EMBEDDED)


def create_registry(root: Path) -> LocalDirectory:
    """Make an empty registry in a new or empty folder.

    Raises:
        ArtifactError: the folder has an index already, or cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with registry_lock(root), staging_directory(root) as staging:
            if (root / INDEX).exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            write_durably(staging / INDEX, index_bytes(index_of(())))
            (staging / INDEX).replace(root / INDEX)
            sync_directory(root)
    except OSError as error:
        raise ArtifactError("The registry cannot be made.", where=root, found=error.strerror) from error
    return LocalDirectory(root)


def open_registry(root: Path) -> LocalDirectory:
    """Return the registry in a folder, and make one where the folder is new, empty, or one whose making was interrupted.

    Raises:
        ArtifactNotFoundError: the folder holds something else.
        ArtifactError: the registry cannot be made or read.
    """
    try:
        fresh = not root.exists() or all(one.name.startswith(STAGING_PREFIX) for one in root.iterdir())
    except OSError as error:
        raise ArtifactError("The registry cannot be read.", where=root, found=error.strerror) from error
    registry = create_registry(root) if fresh else LocalDirectory(root)
    registry.entries()
    return registry


def _remove_empty(*folders: Path) -> None:
    """Remove folders that have become empty; one that holds other artifacts stays."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
