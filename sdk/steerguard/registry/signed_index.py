"""The signed index of a registry on the Hub: every artifact with its repository, commit and digest.

It is the payload of an envelope that a key of the registry signs. Its sequence grows with every change and it expires,
so that neither an older index nor one that is held back passes for the present one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.manifest import API_VERSION, Identifier, Text
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.times import UtcTime, parse_time, time_text
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.registry.index import MAX_INDEX_BYTES, IndexEntry
from steerguard.registry.names import Commit, HubRegistryName, HubRepository, Sequence, organisation_of
from steerguard.registry.signed_document import check_lifetime, verified_document
from steerguard.signing.keys import PublicKey

SIGNED_INDEX: Final = "index.dsse.json"
SIGNED_INDEX_TYPE: Final = "application/vnd.steerguard.index+json"


class HubEntry(IndexEntry):
    """One artifact on the Hub."""

    repo: HubRepository
    """Model repository, in the registry's organisation."""
    commit: Commit
    """The commit that holds the artifact; tags are never asked."""
    type: Identifier
    """Type of the artifact, for search."""
    base_model: Text
    """Name of the base model, for search; never compared."""


class SignedIndex(BaseModel):
    """The payload of `index.dsse.json`."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )

    api_version: Literal["steerguard/v1alpha1"] = Field(alias="apiVersion")
    """Version of this format."""
    kind: Literal["SignedIndex"]
    """Kind of the document."""
    registry: HubRegistryName
    """The registry that this is the index of."""
    sequence: Sequence
    """Number of this index; the next one has a higher number."""
    issued: UtcTime
    """Time of issue, UTC."""
    expires: UtcTime
    """From this time on the index is stale."""
    artifacts: tuple[HubEntry, ...]
    """Every artifact once, sorted by family, variant and version."""

    @property
    def issued_at(self) -> datetime:
        """Time of issue."""
        return parse_time(self.issued)

    @property
    def expires_at(self) -> datetime:
        """Time of expiry."""
        return parse_time(self.expires)


def signed_index_of(
    registry: str, entries: Iterable[HubEntry], *, sequence: int, issued: datetime, expires: datetime
) -> SignedIndex:
    """Return an index of these entries, sorted.

    Raises:
        ArtifactFormatError: a value is not what the format allows, or an artifact occurs twice.
    """
    index = SignedIndex.model_construct(
        api_version=API_VERSION,
        kind="SignedIndex",
        registry=registry,
        sequence=sequence,
        issued=time_text(issued),
        expires=time_text(expires),
        artifacts=tuple(sorted(entries, key=lambda entry: entry.key)),
    )
    return parse_signed_index(signed_index_bytes(index), where="signed index")


def parse_signed_index(content: bytes, *, where: str) -> SignedIndex:
    """Parse the payload of an index envelope; the signature is judged elsewhere.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, unsorted, an artifact is listed twice or lies in another
            organisation's repository, or it expires before it was issued.
    """
    index = validated(SignedIndex, content, where=where, max_bytes=MAX_INDEX_BYTES)
    keys = [entry.key for entry in index.artifacts]
    if keys != sorted(set(keys)):
        raise ArtifactFormatError(
            "The index is not in order.",
            where=f"{where}: artifacts",
            expected="every artifact once, sorted by family, variant and version",
            found=", ".join(entry.reference for entry in index.artifacts[:20])[:500],
        )
    organisation = organisation_of(index.registry)
    for entry in index.artifacts:
        if entry.repo.partition("/")[0] != organisation:
            raise ArtifactFormatError(
                f"Artifact {entry.reference} lies outside the registry's organisation.",
                where=f"{where}: artifacts",
                expected=f"a repository of {organisation}",
                found=entry.repo,
            )
    check_lifetime(index, name="index", where=where)
    return index


def signed_index_bytes(index: SignedIndex) -> bytes:
    """Return the canonical bytes of an index, ready to be signed as `SIGNED_INDEX_TYPE`."""
    return canonical_bytes(index.model_dump(mode="json", by_alias=True))


def verified_index(
    envelope: bytes, keys: Iterable[PublicKey], *, registry: str, where: str, threshold: int = 1
) -> tuple[SignedIndex, tuple[PublicKey, ...]]:
    """Return the index inside an envelope and the keys that signed it; age and sequence are judged elsewhere.

    Raises:
        SignatureError: malformed envelope, not signed by enough of the keys, or the index of another registry.
        ArtifactFormatError: the index is malformed.
    """
    return verified_document(
        envelope,
        SIGNED_INDEX_TYPE,
        parse_signed_index,
        keys,
        name="index",
        registry=registry,
        where=where,
        threshold=threshold,
    )
