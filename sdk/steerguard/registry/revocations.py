"""The signed list of revocations of a registry: artifacts and keys that must no longer be relied on.

Like the index it has a sequence and expires: an older list, or one that is held back, is noticed.
A revoked key counts for nothing, whatever the date on what it signed, because that date is the signer's own word.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from steerguard.artifacts.attestation import Digest
from steerguard.artifacts.manifest import API_VERSION, Name
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.times import UtcTime, parse_time, time_text
from steerguard.artifacts.versions import RANGE_FORMS, parse_range, parse_version
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, ArtifactReferenceError
from steerguard.registry.index import IndexEntry
from steerguard.registry.names import RegistryName, Sequence
from steerguard.registry.signed_document import check_lifetime, verified_document
from steerguard.signing.keys import KEY_ID_PATTERN, PublicKey

REVOCATIONS: Final = "revocations.dsse.json"
REVOCATIONS_TYPE: Final = "application/vnd.steerguard.revocations+json"
MAX_REVOCATIONS_BYTES: Final = 16 * 1024 * 1024

Reason = Literal["unsafe", "leaked_key", "wrong_base", "superseded"]
RevocationAction = Literal["refuse", "warn"]


def _checked_range(text: str) -> str:
    try:
        parse_range(text)
    except ArtifactReferenceError as error:
        msg = f"a version range: {RANGE_FORMS}"
        raise ValueError(msg) from error
    return text


RangeText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_checked_range)]

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True)


class RevokedArtifact(BaseModel):
    """One artifact by digest, or several by name."""

    model_config = _CONFIG

    digest: Digest | None = None
    """Digest of the manifest; null when the artifacts are given by name."""
    family: Name | None = None
    """Family whose artifacts are revoked; null when the artifact is given by digest."""
    variant: Name | None = None
    """Only this variant of the family; null for all."""
    range: RangeText | None = None
    """Only versions in this range; null for all."""
    reason: Reason
    """Why."""
    action: RevocationAction
    """`refuse`: must not be used. `warn`: may be used, with a warning."""
    note: Annotated[str, Field(max_length=2000)]
    """For people."""
    since: UtcTime
    """Time of the revocation, for people: what is listed is revoked, whenever it was signed or loaded."""

    def covers(self, entry: IndexEntry) -> bool:
        """Return whether this revokes an entry."""
        if self.digest is not None:
            return self.digest == entry.digest
        return (
            self.family == entry.family
            and self.variant in {None, entry.variant}
            and (self.range is None or parse_range(self.range).admits(parse_version(entry.version)))
        )


class RevokedKey(BaseModel):
    """One key that no longer counts."""

    model_config = _CONFIG

    key_id: Annotated[str, Field(pattern=KEY_ID_PATTERN)]
    """Id of the public key."""
    reason: Reason
    """Why."""
    since: UtcTime
    """Time of the revocation, for people."""


class RevocationList(BaseModel):
    """The payload of `revocations.dsse.json`."""

    model_config = _CONFIG

    api_version: Literal["steerguard/v1alpha1"] = Field(alias="apiVersion")
    """Version of this format."""
    kind: Literal["RevocationList"]
    """Kind of the document."""
    registry: RegistryName
    """The registry that this is the list of."""
    sequence: Sequence
    """Number of this list; the next one has a higher number."""
    issued: UtcTime
    """Time of issue, UTC."""
    expires: UtcTime
    """From this time on the list is stale."""
    artifacts: tuple[RevokedArtifact, ...]
    """Artifacts that must not be relied on."""
    keys: tuple[RevokedKey, ...]
    """Keys whose signatures count for nothing."""

    @property
    def issued_at(self) -> datetime:
        """Time of issue."""
        return parse_time(self.issued)

    @property
    def expires_at(self) -> datetime:
        """Time of expiry."""
        return parse_time(self.expires)

    def revoked_as(self, entry: IndexEntry) -> RevokedArtifact | None:
        """Return what revokes an entry, one that refuses before one that warns; None when nothing does."""
        found = [revoked for revoked in self.artifacts if revoked.covers(entry)]
        return min(found, key=lambda revoked: revoked.action != "refuse", default=None)

    def revoked_key(self, key_id: str) -> RevokedKey | None:
        """Return what revokes a key; None when nothing does."""
        return next((revoked for revoked in self.keys if revoked.key_id == key_id), None)


def revocation_list(
    registry: str,
    *,
    sequence: int,
    issued: datetime,
    expires: datetime,
    artifacts: Iterable[RevokedArtifact] = (),
    keys: Iterable[RevokedKey] = (),
) -> RevocationList:
    """Return a list of revocations.

    Raises:
        ArtifactFormatError: a value is not what the format allows.
    """
    document = RevocationList.model_construct(
        api_version=API_VERSION,
        kind="RevocationList",
        registry=registry,
        sequence=sequence,
        issued=time_text(issued),
        expires=time_text(expires),
        artifacts=tuple(artifacts),
        keys=tuple(keys),
    )
    return parse_revocations(revocations_bytes(document), where="list of revocations")


def with_more(
    known: RevocationList | None, artifacts: Iterable[RevokedArtifact], keys: Iterable[RevokedKey]
) -> tuple[tuple[RevokedArtifact, ...], tuple[RevokedKey, ...]]:
    """Return what a list says and these too; what it says already, whatever its note and time, is not said twice."""
    said = () if known is None else known.artifacts
    revoked = () if known is None else known.keys
    ids = {one.key_id for one in revoked}
    more = (one for one in artifacts if not is_said(one, said))
    return (*said, *more), (*revoked, *(one for one in keys if one.key_id not in ids))


def is_said(new: RevokedArtifact, said: Iterable[RevokedArtifact]) -> bool:
    """Return whether revocations have this one already, whatever its note and time."""
    same = {"note", "since"}
    return any(new.model_dump(exclude=same) == one.model_dump(exclude=same) for one in said)


def parse_revocations(content: bytes, *, where: str) -> RevocationList:
    """Parse the payload of a revocation envelope; the signature is judged elsewhere.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, a field is left out, an entry names its artifacts neither
            or both ways, or the list expires before it was issued.
    """
    document = validated(RevocationList, content, where=where, max_bytes=MAX_REVOCATIONS_BYTES)
    if revocations_bytes(document) != content:
        raise ArtifactFormatError(
            "The list of revocations leaves out fields.",
            where=where,
            expected="every field, null where it says nothing",
        )
    for index, revoked in enumerate(document.artifacts):
        named = revoked.family is not None
        narrowed = revoked.variant is not None or revoked.range is not None
        if (revoked.digest is None) != named or (narrowed and not named):
            raise ArtifactFormatError(
                "A revocation names artifacts by digest or by name.",
                where=f"{where}: artifacts[{index}]",
                expected="either digest, or family with optional variant and range",
                found=f"digest {revoked.digest}, family {revoked.family}, variant {revoked.variant}, "
                f"range {revoked.range}",
            )
    check_lifetime(document, name="list of revocations", where=where)
    return document


def revocations_bytes(document: RevocationList) -> bytes:
    """Return the canonical bytes of a list, ready to be signed as `REVOCATIONS_TYPE`."""
    return canonical_bytes(document.model_dump(mode="json", by_alias=True))


def verified_revocations(
    envelope: bytes, keys: Iterable[PublicKey], *, registry: str, where: str, threshold: int = 1
) -> tuple[RevocationList, tuple[PublicKey, ...]]:
    """Return the list inside an envelope and the keys that signed it; age and sequence are judged elsewhere.

    Raises:
        SignatureError: malformed envelope, not signed by enough of the keys, or the list of another registry.
        ArtifactFormatError: the list is malformed.
    """
    return verified_document(
        envelope,
        REVOCATIONS_TYPE,
        parse_revocations,
        keys,
        name="list of revocations",
        registry=registry,
        where=where,
        threshold=threshold,
    )
