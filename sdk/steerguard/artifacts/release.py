"""The release statement: a publisher says that an artifact, named by the digest of its manifest, is theirs.

It is signed and lies outside the digest, as `attestations/release.<key id>.json`: one envelope per signing key.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.manifest import ArtifactManifest, Text
from steerguard.artifacts.paths import ATTESTATIONS
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.times import UtcTime
from steerguard.errors import ArtifactFormatError
from steerguard.signing.statement import STATEMENT_TYPE, Statement, statement_bytes, subject
from steerguard.version import __version__

RELEASE: Final = "urn:steerguard:release:v1"
MAX_RELEASE_BYTES: Final = 64 * 1024
_PREFIX: Final = f"{ATTESTATIONS}/release."


class Release(BaseModel):
    """What the publisher says."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    publisher: Text
    """Who publishes, by the id that trust policies know; the key that signed is what counts."""
    created: UtcTime
    """Time of the statement, UTC."""
    sdk: Text
    """Version of steerguard that wrote it."""


class ReleaseStatement(Statement[Release]):
    """The statement about one artifact; its only subject is the manifest."""

    predicate_type: Literal["urn:steerguard:release:v1"] = Field(alias="predicateType")
    """What kind of statement it is."""

    @property
    def digest(self) -> str:
        """Digest of the artifact, `sha256:<hex>`."""
        return f"sha256:{self.subject[0].digest.sha256}"


def release_statement(manifest: ArtifactManifest, digest: str, publisher: str, created: str) -> bytes:
    """Return the bytes of a release statement, ready to be signed as `STATEMENT`.

    Args:
        manifest: what the artifact is; gives the subject its name.
        digest: digest of the manifest's bytes.
        publisher: id of the publisher in trust policies.
        created: time of the statement, UTC, as `steerguard.artifacts.times.time_text` writes it.

    Raises:
        ArtifactFormatError: a value is not what the format allows.
    """
    content = statement_bytes(
        ReleaseStatement.model_construct(
            type=STATEMENT_TYPE,
            subject=(subject(manifest.reference, digest),),
            predicate_type=RELEASE,
            predicate=Release.model_construct(publisher=publisher, created=created, sdk=__version__),
        )
    )
    parse_release(content, where="release statement")
    return content


def parse_release(content: bytes, *, where: str) -> ReleaseStatement:
    """Parse the payload of a release envelope; the signature is judged elsewhere.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, of another kind, or with other than one subject.
    """
    statement = validated(ReleaseStatement, content, where=where, max_bytes=MAX_RELEASE_BYTES)
    if len(statement.subject) != 1:
        raise ArtifactFormatError(
            "A release is about one artifact.", where=f"{where}: subject", expected="1", found=len(statement.subject)
        )
    return statement


def release_path(key_id: str) -> str:
    """Return the path of the envelope that this key signs, inside the artifact."""
    return f"{_PREFIX}{key_id}.json"


def is_release(path: str) -> bool:
    """Return whether a file of an artifact is a release envelope by its name."""
    return path.startswith(_PREFIX)
