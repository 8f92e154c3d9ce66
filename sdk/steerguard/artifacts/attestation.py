"""An attestation: a statement about one artifact that was made after it, and lies outside its digest.

The only statement so far is a calibration on somebody's own benign prompts. The file is canonical JSON (RFC 8785), so
that a signature over its bytes is a signature over its meaning; it is not signed in this version, and whoever uses it
pins it by digest. It holds scores and a digest of the prompts, never their texts.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from steerguard.artifacts.calibration import Calibration, check_scores
from steerguard.artifacts.manifest import API_VERSION, DecimalText, Identifier, Name, Text
from steerguard.artifacts.paths import MAX_FILE_BYTES
from steerguard.artifacts.strict_json import validated
from steerguard.artifacts.versions import VERSION_PATTERN
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.version import __version__

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, validate_by_name=True
    )


class Subject(_Part):
    """The artifact that the statement is about."""

    family: Name
    variant: Name
    version: Annotated[str, Field(pattern=VERSION_PATTERN)]
    digest: Digest
    """Digest of the artifact's manifest; the names are for people."""

    @property
    def reference(self) -> str:
        """The exact name `family/variant@version`."""
        return f"{self.family}/{self.variant}@{self.version}"


class MeasuredModel(_Part):
    """The model that the scores were read from."""

    weights: Identifier
    """Floating point type of the weights, for example `bfloat16`."""
    fingerprint_distance: DecimalText
    """Largest 1 - cos between the artifact's recorded directions and this model's."""


class BenignPrompts(_Part):
    """What the scores are scores of."""

    n: Annotated[int, Field(ge=1)]
    distinct: Annotated[int, Field(ge=1)]
    """How many of them differ; a prompt that is given twice counts twice."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the canonical JSON list of all conversations in order."""


class CalibrationStatement(_Part):
    """What the attestation says: these are the benign scores of the subject on this model."""

    model: MeasuredModel
    prompts: BenignPrompts
    calibration: Calibration
    """As in an artifact's `calibration.json`."""


class Tool(_Part):
    """What made the statement."""

    name: Literal["steerguard"] = "steerguard"
    version: Text = __version__


class Attestation(_Part):
    """The document."""

    api_version: Literal["steerguard/v1alpha1"] = Field(default=API_VERSION, alias="apiVersion")
    """Version of this format."""
    kind: Literal["Attestation"] = "Attestation"
    """Kind of the document."""
    predicate_type: Literal["calibration"] = Field(default="calibration", alias="predicateType")
    """What is stated of the subject."""
    subject: Subject
    predicate: CalibrationStatement
    tool: Tool = Tool()
    created: Annotated[str, Field(pattern=TIME_PATTERN)]
    """Time of the statement, UTC."""


def parse_attestation(content: bytes, *, where: str) -> Attestation:
    """Parse and check the bytes of an attestation.

    Args:
        content: the bytes of the file.
        where: file name for messages.

    Raises:
        ArtifactFormatError: not canonical, breaks the schema, of another kind, or its scores contradict themselves.
    """
    attestation = validated(Attestation, content, where=where, max_bytes=MAX_FILE_BYTES)
    statement = attestation.predicate
    check_scores(statement.calibration, where=f"{where}: predicate.calibration")
    if statement.prompts.n != statement.calibration.n or statement.prompts.distinct > statement.prompts.n:
        raise ArtifactFormatError(
            "The number of prompts differs from the number of scores.",
            where=f"{where}: predicate.prompts",
            expected=f"n {statement.calibration.n}, and distinct no higher",
            found=f"n {statement.prompts.n}, distinct {statement.prompts.distinct}",
        )
    return attestation


def attestation_bytes(attestation: Attestation) -> bytes:
    """Return the canonical bytes of an attestation."""
    return canonical_bytes(attestation.model_dump(mode="json", by_alias=True))
