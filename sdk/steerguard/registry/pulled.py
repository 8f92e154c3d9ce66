"""What was pulled from remote registries: a store on this machine where an artifact lies under its digest.

    artifacts/<hex>/        one verified artifact; appears by a rename, whole or not at all
    origins/<hex>.json      where its attestations came from, and their digests
    partial/<hex>/          a download that can be resumed
    partial/scratch-*/      work of a live process
    quarantine/<hex>-*/     copies that were found damaged
    registries/<name>/      the newest verified index and list of revocations of each registry
    locks/                  one lock file per digest and per registry

Nothing in here is trusted when it is read: digests decide, from an index or a lock file.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

from platformdirs import user_cache_dir

from steerguard.artifacts.integrity import pinned_manifest
from steerguard.artifacts.paths import ATTESTATIONS, MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES
from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError, ArtifactNotFoundError
from steerguard.registry.attestations import read_attestations
from steerguard.registry.disk import disk_errors
from steerguard.registry.folder import list_folder, read_file, read_folder, require_directory
from steerguard.registry.index import IndexEntry
from steerguard.registry.origins import Origins, origins_bytes, read_origins
from steerguard.registry.pinned_folder import check_pinned_folder
from steerguard.registry.staging import sync_directory
from steerguard.registry.store import PinnedManifest
from steerguard.registry.workspace import Workspace

STORE_VARIABLE = "STEERGUARD_STORE"

KEEP_QUARANTINED = 8
"""How many damaged copies are kept."""

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_REMEMBERED_BYTES = 64 * 1024 * 1024


class PulledArtifacts:
    """An `ArtifactStore` of everything that was pulled, shared by all programs of one user.

    Args:
        root: folder of the store, made when first needed; by default the environment's `STEERGUARD_STORE`, else the
            user's cache folder.
    """

    name = "pulled"

    def __init__(self, root: Path | None = None) -> None:
        chosen = root or os.environ.get(STORE_VARIABLE) or Path(user_cache_dir("steerguard")) / "registry"
        self.root = Path(chosen).absolute()
        self._workspace = Workspace(self.root)

    def entries(self) -> tuple[IndexEntry, ...]:
        """Return every artifact in the store, sorted.

        Raises:
            ArtifactIntegrityError: a manifest has not the digest that its folder is named for.
            ArtifactFormatError: a manifest is malformed.
        """
        folder = self.root / "artifacts"
        with disk_errors("The store of pulled artifacts cannot be read.", where=folder):
            names = sorted(one.name for one in folder.iterdir()) if folder.is_dir() else []
        digests = [f"sha256:{name}" for name in names if _DIGEST.fullmatch(f"sha256:{name}")]
        found = [self._manifest(digest) for digest in digests]
        return tuple(sorted((_entry(pin) for pin in found), key=lambda entry: (entry.key, entry.digest)))

    def attestations(self, entry: IndexEntry) -> Mapping[str, bytes]:
        """Return the unverified files that vouch for one artifact, by path `attestations/<name>.json`.

        Raises:
            ArtifactNotFoundError: the artifact was not pulled.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands among them.
            ArtifactError: the operating system refuses.
        """
        self._require(entry.digest, entry.reference)
        return read_attestations(self.folder(entry.digest))

    def pin(self, entry: IndexEntry) -> PinnedManifest:
        """Return the manifest of one entry; its digest is checked before it is parsed.

        Raises:
            ArtifactNotFoundError: the artifact was not pulled.
            ArtifactIntegrityError: the manifest has not the digest of the entry.
            ArtifactFormatError: the manifest is malformed, or names another artifact.
            ArtifactError: the operating system refuses.
        """
        self._require(entry.digest, entry.reference)
        pin = self._manifest(entry.digest)
        if pin.reference != entry.reference:
            raise ArtifactFormatError(
                "Entry and manifest name different artifacts.",
                where=self.folder(entry.digest) / MANIFEST,
                expected=entry.reference,
                found=pin.reference,
            )
        return pin

    def read(self, pin: PinnedManifest) -> Mapping[str, bytes]:
        """Return the content of every file of one artifact, unverified: `verify_artifact` judges it.

        Raises:
            ArtifactNotFoundError: the artifact was not pulled.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands in its folder.
            ArtifactError: the operating system refuses.
        """
        self._require(pin.digest, pin.reference)
        return read_folder(self.folder(pin.digest))

    def folder(self, digest: str) -> Path:
        """Return where the artifact with this digest lies, or would lie.

        Raises:
            ArtifactFormatError: the digest is malformed.
        """
        return self.root / "artifacts" / _hex(digest)

    def has(self, digest: str) -> bool:
        """Return whether something stands in the place of this artifact; `sound` says whether it is right."""
        return os.path.lexists(self.folder(digest))

    def sound(self, digest: str) -> bool:
        """Return whether the artifact is there, whole and unchanged: every byte is hashed, attestations too.

        Raises:
            ArtifactError: the operating system refuses to read.
        """
        folder = self.folder(digest)
        with disk_errors("A pulled artifact cannot be read.", where=folder):
            try:
                check_pinned_folder(folder, digest)
                recorded = read_origins(self._origins_file(digest))
                found = {path: sha256_hex(content) for path, content in read_attestations(folder).items()}
            except (ArtifactIntegrityError, ArtifactFormatError, ArtifactNotFoundError):
                return False
        return recorded.admits(found)

    def origins(self, digest: str) -> tuple[str, ...]:
        """Return the origins, `<repo>@<commit>`, whose attestations the artifact has here."""
        return read_origins(self._origins_file(digest)).seen

    def put(self, digest: str, staged: Path, *, origin: str | None = None) -> None:
        """Move a staged artifact into the store after hashing every byte of it; call it under `one_at_a_time`.

        Args:
            digest: `sha256:<hex>` of the manifest.
            staged: a folder below `partial/`; gone afterwards.
            origin: `<repo>@<commit>` that the attestations came from.

        Raises:
            ArtifactIntegrityError: the staged bytes are not those that the digest pins.
            ArtifactFormatError: the folder holds what an artifact may not hold.
            ArtifactError: the operating system refuses, for example because the disk is full.
        """
        target = self.folder(digest)
        with disk_errors("The artifact could not be stored.", where=self.root):
            check_pinned_folder(staged, digest)
            hashes = {path: sha256_hex(content) for path, content in read_attestations(staged).items()}
            _flush(staged)
            if os.path.lexists(target):
                self.quarantine(digest)
            self._record(digest, Origins(seen=(origin,) if origin else (), attestations=hashes))
            self._workspace.folder("artifacts")
            staged.rename(target)
            sync_directory(target.parent)

    def attest(self, digest: str, files: Mapping[str, bytes], *, origin: str) -> None:
        """Add attestations to an artifact of the store; call it under `one_at_a_time`.

        What was there stays, unless a file of the same name replaces it or there would be too many.

        Raises:
            ArtifactError: the operating system refuses.
        """
        folder = self.folder(digest)
        with disk_errors("The attestations could not be stored.", where=folder):
            seen = read_origins(self._origins_file(digest)).seen
            there = read_attestations(folder)
            before = {path: sha256_hex(content) for path, content in there.items()}
            staying = before
            if len({*there, *files}) > MAX_FILES:
                seen, staying = (), {path: sha256 for path, sha256 in before.items() if path in files}
            dropped = {path: sha256 for path, sha256 in before.items() if path not in staying}
            after = {path: sha256_hex(content) for path, content in files.items()}
            # First: whoever is killed below leaves a state that is known to be sound.
            self._record(digest, Origins(seen=seen, attestations=staying, pending={**dropped, **after}))
            for path in sorted(dropped):
                (folder / path).unlink()
            (folder / ATTESTATIONS).mkdir(exist_ok=True)
            for path, content in sorted(files.items()):
                self._workspace.replace(folder / path, content)
            hashes = {path: sha256_hex(content) for path, content in read_attestations(folder).items()}
            self._record(digest, Origins(seen=tuple(dict.fromkeys((*seen, origin))), attestations=hashes))

    def quarantine(self, digest: str) -> Path:
        """Move what stands in the place of an artifact out of the way, and return where it lies now.

        The newest `KEEP_QUARANTINED` are kept for whoever wants to know what happened.

        Raises:
            ArtifactError: the operating system refuses.
        """
        aside = self.root / "quarantine" / f"{_hex(digest)}-{secrets.token_hex(4)}"
        with disk_errors("A damaged artifact could not be put into quarantine.", where=self.root):
            self._workspace.folder("quarantine")
            self._origins_file(digest).unlink(missing_ok=True)
            self.folder(digest).rename(aside)
            self._workspace.keep_newest("quarantine", KEEP_QUARANTINED)
        return aside

    def one_at_a_time(self, digest: str) -> AbstractContextManager[None]:
        """Keep every other thread and process from changing this artifact; the lock may not be taken twice at once.

        Raises:
            ArtifactError: the operating system refuses.
        """
        return self._workspace.locked(_hex(digest))

    def one_registry_at_a_time(self, registry: str) -> AbstractContextManager[None]:
        """Keep every other thread and process from changing what is remembered of a registry.

        Raises:
            ArtifactError: the operating system refuses.
        """
        return self._workspace.locked(f"registry-{sha256_hex(registry.encode())}")

    def partial(self, digest: str) -> Path:
        """Return the folder of a download that can be resumed, made when absent; use it under `one_at_a_time`.

        Raises:
            ArtifactError: the operating system refuses.
        """
        return self._workspace.partial(_hex(digest))

    def scratch(self) -> AbstractContextManager[Path]:
        """Make a private folder on the store's file system; it is removed at the end, also after a crash.

        Raises:
            ArtifactError: the operating system refuses.
        """
        return self._workspace.scratch()

    def remembered(self, registry: str) -> dict[str, bytes]:
        """Return the newest verified documents of a registry by file name; empty when none was seen.

        Raises:
            ArtifactFormatError: a symlink, a special file or an oversized file stands there.
            ArtifactError: the operating system refuses.
        """
        folder = self._memory_of(registry)
        with disk_errors("What is remembered of a registry cannot be read.", where=folder):
            if not folder.is_dir():
                return {}
            names = sorted(one.name for one in folder.iterdir() if one.name.endswith(".json"))
            return {name: read_file(folder / name, max_bytes=_MAX_REMEMBERED_BYTES) for name in names}

    def remember(self, registry: str, name: str, content: bytes) -> None:
        """Replace one remembered document; whoever calls has verified that it is not older.

        Args:
            registry: name of the registry.
            name: file name, for example `index.dsse.json`.
            content: the signed envelope.

        Raises:
            ArtifactError: the operating system refuses.
        """
        if re.fullmatch(r"[a-z]+(?:\.[a-z]+)*\.json", name) is None:
            raise ArtifactFormatError("This is no name of a registry's document.", found=repr(name[:100]))
        folder = self._memory_of(registry)
        with disk_errors("The state of a registry could not be remembered.", where=folder):
            self._workspace.folder("registries")
            folder.mkdir(exist_ok=True)
            self._workspace.replace(folder / name, content)

    def _memory_of(self, registry: str) -> Path:
        name = quote(registry, safe="")
        # File systems limit names to 255 bytes; a longer one is a local path, and its digest names it as well.
        return self.root / "registries" / (name if len(name) <= 200 else sha256_hex(registry.encode()))

    def _require(self, digest: str, reference: str) -> None:
        if not self.has(digest):
            raise ArtifactNotFoundError(
                f"Artifact {reference} is not on this machine.",
                where=self.root,
                expected=digest,
                found="nothing under this digest",
                next_step="Run `steerguard sync` with a network.",
            )

    def _manifest(self, digest: str) -> PinnedManifest:
        folder = self.folder(digest)
        require_directory(folder)
        with disk_errors("A pulled artifact cannot be read.", where=folder):
            try:
                content = read_file(folder / MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
            except FileNotFoundError as error:
                raise ArtifactIntegrityError(
                    "A pulled artifact has lost its manifest.",
                    where=folder,
                    expected=digest,
                    next_step="Run `steerguard sync`: it replaces damaged copies.",
                ) from error
        manifest = pinned_manifest(content, digest, where=str(folder))
        return PinnedManifest(
            family=manifest.family,
            variant=manifest.variant,
            version=manifest.version,
            digest=digest,
            manifest=manifest,
        )

    def _origins_file(self, digest: str) -> Path:
        return self.root / "origins" / f"{_hex(digest)}.json"

    def _record(self, digest: str, origins: Origins) -> None:
        self._workspace.folder("origins")
        self._workspace.replace(self._origins_file(digest), origins_bytes(origins))


def _entry(pin: PinnedManifest) -> IndexEntry:
    return IndexEntry(family=pin.family, variant=pin.variant, version=pin.version, digest=pin.digest)


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ArtifactFormatError(
            "The digest of an artifact is malformed.",
            expected="sha256:<64 hexadecimal digits>",
            found=repr(digest[:100]),
        )
    return match.group(1)


def _flush(folder: Path) -> None:
    """Flush every file of a checked folder, and its folders, to the device."""
    paths = [folder / path for path in list_folder(folder)]
    for path in paths:
        sync_directory(path)
    for one in {folder, *(path.parent for path in paths)}:
        sync_directory(one)
