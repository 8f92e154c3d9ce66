"""The index of a local registry: which artifacts there are, each pinned to the digest of its manifest."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.manifest import API_VERSION, Name
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.versions import VERSION_PATTERN, parse_version
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError

INDEX = "index.json"
MAX_INDEX_BYTES = 16 * 1024 * 1024

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class IndexEntry(BaseModel):
    """One artifact."""

    model_config = _CONFIG

    family: Name
    """What policies refer to."""
    variant: Name
    """The model and, where it matters, its quantisation."""
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    """MAJOR.MINOR.PATCH."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    """Digest of the manifest's bytes."""

    @property
    def key(self) -> tuple[str, str, tuple[int, int, int]]:
        """What sorts and identifies an entry."""
        return self.family, self.variant, parse_version(self.version)

    @property
    def reference(self) -> str:
        """The exact name `family/variant@version`."""
        return f"{self.family}/{self.variant}@{self.version}"


class RegistryIndex(BaseModel):
    """The document `index.json`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )

    api_version: Literal["steerguard/v1alpha1"] = Field(alias="apiVersion")
    """Version of this format."""
    kind: Literal["RegistryIndex"]
    """Kind of the document."""
    artifacts: tuple[IndexEntry, ...]
    """Every artifact once, sorted by family, variant and version."""


def index_of(entries: tuple[IndexEntry, ...]) -> RegistryIndex:
    """Return an index of these entries, sorted."""
    ordered = tuple(sorted(entries, key=lambda entry: entry.key))
    return RegistryIndex(api_version=API_VERSION, kind="RegistryIndex", artifacts=ordered)


def parse_index(content: bytes, *, where: str) -> RegistryIndex:
    """Parse the bytes of an index.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, unsorted, or an artifact is listed twice.
    """
    index = validated(RegistryIndex, content, where=where, max_bytes=MAX_INDEX_BYTES)
    keys = [entry.key for entry in index.artifacts]
    if keys != sorted(set(keys)):
        raise ArtifactFormatError(
            "The index is not in order.",
            where=f"{where}: artifacts",
            expected="every artifact once, sorted by family, variant and version",
            found=", ".join(entry.reference for entry in index.artifacts)[:500],
        )
    return index


def index_bytes(index: RegistryIndex) -> bytes:
    """Return the canonical bytes of an index."""
    return canonical_bytes(index.model_dump(mode="json", by_alias=True))
