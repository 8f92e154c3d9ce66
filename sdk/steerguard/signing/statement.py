"""In-toto statements v1: what somebody says of files that are named by digest.

Source: in-toto Attestation Framework, Statement v1 (https://github.com/in-toto/attestation). A statement is canonical
JSON inside a DSSE envelope of payload type `STATEMENT`. Its predicate is a pydantic model, and a kind of statement is
`Statement[Predicate]` with its own `predicate_type`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from steerguard.canonical import canonical_bytes

STATEMENT: Final = "application/vnd.in-toto+json"
"""Payload type of an envelope around a statement."""
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
MAX_SUBJECTS: Final = 64

PredicateT = TypeVar("PredicateT", bound=BaseModel)

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True)


class Sha256Digest(BaseModel):
    """The digests of one subject: SHA-256 and nothing else."""

    model_config = _CONFIG

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the bytes."""


class StatementSubject(BaseModel):
    """One file that the statement is about; the digest says which, the name is for people."""

    model_config = _CONFIG

    name: Annotated[str, Field(min_length=1, max_length=300)]
    """Path of the file, or name of the artifact."""
    digest: Sha256Digest
    """Digest of the bytes."""


class Statement(BaseModel, Generic[PredicateT]):
    """A statement around a predicate."""

    model_config = _CONFIG

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    """Version of the statement format."""
    subject: tuple[StatementSubject, ...] = Field(min_length=1, max_length=MAX_SUBJECTS)
    """What is stated about."""
    predicate_type: Annotated[str, Field(min_length=1, max_length=200)] = Field(alias="predicateType")
    """What kind of statement it is."""
    predicate: PredicateT
    """What is stated."""


def subject(name: str, sha256: str) -> StatementSubject:
    """Return an unchecked subject; `sha256` is 64 hexadecimal digits, or a digest `sha256:<hex>`."""
    digest = Sha256Digest.model_construct(sha256=sha256.removeprefix("sha256:"))
    return StatementSubject.model_construct(name=name, digest=digest)


def statement_bytes(statement: Statement[Any]) -> bytes:
    """Return the canonical bytes of a statement, ready to be signed."""
    return canonical_bytes(statement.model_dump(mode="json", by_alias=True))
