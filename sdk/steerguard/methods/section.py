"""The strict base of every part of a policy document, and the text types that parts share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

from steerguard.artifacts.reference import parse_reference
from steerguard.errors import ArtifactReferenceError


class Section(BaseModel):
    """One part of a document: no unknown key, no conversion between types, no change after construction."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


def _parsed_reference(text: str) -> str:
    """Return the text unchanged once the artifact layer has accepted it as a reference."""
    try:
        parse_reference(text)
    except ArtifactReferenceError as error:
        kind, template = "artifact_reference", "{summary}"
        raise PydanticCustomError(
            kind,
            template,
            {"summary": error.summary, "expected": error.expected, "next_step": error.next_step},
        ) from error
    return text


Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
"""Name of a detector, a guidance entry or a rule inside one document."""

ArtifactReferenceText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    AfterValidator(_parsed_reference),
    Field(examples=["inferaligner@^1"]),
]
"""An artifact family and a version range, such as `inferaligner@^1`; the plan picks the variant for the model."""
