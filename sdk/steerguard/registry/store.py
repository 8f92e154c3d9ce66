"""What every registry can do: list entries, hand over attestations, pin manifests, hand over bytes.

A store judges names and digests of manifests. Whether somebody who is trusted vouches for an artifact is for a `Judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.versions import parse_version
from steerguard.errors import SignatureError
from steerguard.registry.index import IndexEntry
from steerguard.registry.names import EMBEDDED

LOCAL_SCHEME = "file://"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedManifest:
    """A manifest whose bytes had the digest that the registry's index pins."""

    family: str
    variant: str
    version: str
    digest: str
    """`sha256:<hex>` over the manifest's bytes."""
    manifest: ArtifactManifest

    @property
    def reference(self) -> str:
        """The exact name `family/variant@version`."""
        return f"{self.family}/{self.variant}@{self.version}"


class ArtifactStore(Protocol):
    """A registry that can be read. It judges names and digests of manifests; it does not judge other bytes."""

    @property
    def name(self) -> str:
        """Name of the registry: `embedded`, `file:///absolute/path` or `hf://organisation`."""
        ...

    def entries(self) -> tuple[IndexEntry, ...]:
        """Return what the index lists, sorted by family, variant and version; no manifest is read.

        Raises:
            ArtifactNotFoundError: there is no such registry.
            ArtifactFormatError: the index is malformed.
        """
        ...

    def attestations(self, entry: IndexEntry) -> Mapping[str, bytes]:
        """Return the unverified files that vouch for one artifact, by path `attestations/<name>.json`.

        Raises:
            ArtifactNotFoundError: the artifact is not there.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands among them.
        """
        ...

    def pin(self, entry: IndexEntry) -> PinnedManifest:
        """Return the manifest of one entry; its digest is checked before it is parsed.

        Raises:
            ArtifactNotFoundError: the artifact is not there.
            ArtifactIntegrityError: the manifest has not the digest of the entry.
            ArtifactFormatError: the manifest is malformed, or names another artifact.
        """
        ...

    def read(self, pin: PinnedManifest) -> Mapping[str, bytes]:
        """Return the content of every file of one artifact by relative POSIX path, unverified.

        Raises:
            ArtifactNotFoundError: the artifact is not there.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands in its folder.
        """
        ...


class PublishingStore(ArtifactStore, Protocol):
    """A registry that artifacts can be added to."""

    def add(self, folder: Path) -> PinnedManifest:
        """Add the artifact in a folder: all of it or nothing.

        Raises:
            ArtifactIntegrityError: the artifact is damaged, or the version exists with another digest.
            ArtifactFormatError: the artifact is malformed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """Why an artifact is admitted although nobody vouches for it."""

    reason: str
    """As the trust policy states it."""
    expires: str
    """Last day, YYYY-MM-DD, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Who vouches for one artifact, as a judge has established it."""

    signed_by: tuple[str, ...] = ()
    """Ids of the keys of the publisher whose signatures count, sorted; empty where none was asked for."""
    publisher: str | None = None
    """Id of the publisher in the trust policy."""
    vetting_level: int | None = None
    """Highest level, from 0 to 3, of a valid vetting statement."""
    vetting_digest: str | None = None
    """`sha256:<hex>` over the bytes of that statement's file."""
    allowance: Allowance | None = None
    """Set where nobody vouches for it: its use is recorded as a bypass."""
    warnings: tuple[str, ...] = ()
    """What the user should know although the artifact is admitted, one sentence each."""


class Judge(Protocol):
    """Decides whether an artifact may be used, from its entry and its attestations alone."""

    def admit(self, entry: IndexEntry, *, registry: str, attestations: Mapping[str, bytes]) -> Evidence:
        """Return who vouches for the artifact.

        Args:
            entry: family, variant, version and digest of the manifest.
            registry: name of the registry that the artifact comes from.
            attestations: the unverified files below `attestations/`, by path.

        Raises:
            TrustError: nobody who is trusted vouches for it, or it is revoked.
        """
        ...


@dataclass(frozen=True, slots=True)
class PinnedOnly:
    """The judge where there is no trust policy: local registries are trusted as the folder is, others are not."""

    def admit(self, entry: IndexEntry, *, registry: str, attestations: Mapping[str, bytes]) -> Evidence:
        """Return empty evidence for an artifact of a local registry; the attestations are not read.

        Raises:
            SignatureError: the registry is not on this machine.
        """
        del attestations
        if is_local(registry):
            return Evidence()
        raise SignatureError(
            f"Artifact {entry.reference} comes from a remote registry, and no trust policy says who may sign it.",
            where=registry,
            expected="a trust policy",
            found="none",
            next_step="Pass trust= (or --trust) with a trust policy that names the keys of the publisher.",
        )


def is_local(registry: str) -> bool:
    """Return whether a registry's name is that of a folder on this machine."""
    return registry == EMBEDDED or registry.startswith(LOCAL_SCHEME)


def families_of(store: ArtifactStore) -> tuple[str, ...]:
    """Return the names of all families of a store, sorted; the errors are those of its `entries`."""
    return tuple(sorted({entry.family for entry in store.entries()}))


def pinned_of(store: ArtifactStore, family: str) -> tuple[PinnedManifest, ...]:
    """Return every variant and version of a family, highest version first; empty when there is none.

    Every manifest of the family is read and none is judged; the errors are those of the store's `entries` and `pin`.
    """
    return tuple(store.pin(entry) for entry in highest_first(store.entries()) if entry.family == family)


def highest_first(entries: tuple[IndexEntry, ...]) -> tuple[IndexEntry, ...]:
    """Return entries by version, highest first; equal versions by variant, in the order of the alphabet."""
    by_variant = sorted(entries, key=lambda entry: entry.variant)
    return tuple(sorted(by_variant, key=lambda entry: parse_version(entry.version), reverse=True))
