"""What every registry can do: name families, pin manifests, hand over bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from steerguard.artifacts.manifest import ArtifactManifest


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

    def families(self) -> tuple[str, ...]:
        """Return the names of all families, sorted."""
        ...

    def pinned(self, family: str) -> tuple[PinnedManifest, ...]:
        """Return every variant and version of a family, highest version first; empty when there is none.

        Raises:
            ArtifactIntegrityError: a manifest has not the digest that the index pins.
            ArtifactFormatError: the index or a manifest is malformed.
        """
        ...

    def read(self, pin: PinnedManifest) -> Mapping[str, bytes]:
        """Return the content of every file of one artifact by relative POSIX path, unverified.

        Raises:
            ArtifactNotFoundError: the artifact is not there.
            ArtifactFormatError: a symlink, special file, foreign name or oversized file stands in its folder.
        """
        ...
