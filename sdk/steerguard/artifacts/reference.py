"""References to artifacts: `family@range`, `file:///registry#family@range` and `hf://organisation/family@range`.

Each may name a variant as well, `family/variant`. A policy names a *family*; the plan picks the variant that is bound to
the wrapped model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal
from urllib.parse import quote, unquote

from steerguard.artifacts.versions import parse_range, parse_version
from steerguard.errors import ArtifactReferenceError

Backend = Literal["default", "file", "hf"]

NAME_PATTERN = r"^[a-z0-9]+(?:[.-][a-z0-9]+)*$"
"""Families and variants: lower-case letters, digits, single dots and dashes; safe as a folder name everywhere."""

NAME_MAX_LENGTH = 64

ORGANISATION_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9]|[._-](?=[A-Za-z0-9])){0,95}$"
"""Users and organisations on the Hub: letters, digits, and single dots, dashes and underscores inside."""

_FORMS = (
    "family@range, family/variant@range, file:///absolute/registry#family[/variant]@range "
    "or hf://organisation/family[/variant]@range"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReference:
    """One parsed reference."""

    backend: Backend
    family: str
    """Family name."""
    range: str = "*"
    """Version range as written; `*` when the reference has none."""
    variant: str | None = None
    """A variant named on purpose; None lets the model decide."""
    location: str | None = None
    """Absolute path of the registry for `file`, the organisation for `hf`; None else."""

    @property
    def registry(self) -> str:
        """Name of the registry that it points into: `default`, `file:///absolute/path` or `hf://organisation`."""
        if self.backend == "file":
            return f"file://{quote(self.location or '')}"
        return f"hf://{self.location}" if self.backend == "hf" else "default"

    def admits(self, version: str) -> bool:
        """Return whether this full version lies in the range.

        Raises:
            ArtifactReferenceError: `version` is not `MAJOR.MINOR.PATCH`.
        """
        return parse_range(self.range).admits(parse_version(version))

    def __str__(self) -> str:
        name = self.family if self.variant is None else f"{self.family}/{self.variant}"
        tail = f"{name}@{self.range}"
        if self.backend == "default":
            return tail
        return f"{self.registry}{'#' if self.backend == 'file' else '/'}{tail}"


def parse_reference(text: str) -> ArtifactReference:
    """Parse the text of a reference; nothing is looked up.

    Raises:
        ArtifactReferenceError: the text is none of the forms, or its range is none.
    """
    if text.startswith("hf://"):
        organisation, slash, tail = text.removeprefix("hf://").partition("/")
        if not slash or re.fullmatch(ORGANISATION_PATTERN, organisation) is None:
            raise _malformed(text, "a reference to the Hub is hf://organisation/family@range")
        family, variant, range_ = _name(text, tail)
        return ArtifactReference(backend="hf", family=family, variant=variant, range=range_, location=organisation)
    if text.startswith("file://"):
        location, mark, tail = text.removeprefix("file://").partition("#")
        path = PurePosixPath(unquote(location))
        if not mark or not path.is_absolute() or ".." in path.parts or "\0" in str(path):
            raise _malformed(text, "a file reference is file:///absolute/registry#family@range")
        family, variant, range_ = _name(text, tail)
        return ArtifactReference(backend="file", family=family, variant=variant, range=range_, location=str(path))
    family, variant, range_ = _name(text, text)
    return ArtifactReference(backend="default", family=family, variant=variant, range=range_)


def _name(text: str, tail: str) -> tuple[str, str | None, str]:
    name, range_ = _split(text, tail)
    family, slash, variant = name.partition("/")
    for part in (family, variant) if slash else (family,):
        if len(part) > NAME_MAX_LENGTH or re.fullmatch(NAME_PATTERN, part) is None:
            raise _malformed(text, "a name has lower-case letters, digits, single dots and dashes")
    return family, variant if slash else None, range_


def _split(text: str, tail: str) -> tuple[str, str]:
    name, mark, range_ = tail.partition("@")
    if mark and not range_:
        raise _malformed(text, "a range follows the @")
    if mark:
        parse_range(range_)
    return name, range_ or "*"


def _malformed(text: str, reason: str) -> ArtifactReferenceError:
    return ArtifactReferenceError(
        f"This is not an artifact reference: {reason}.",
        expected=_FORMS,
        found=repr(text[:200]),
        next_step="Correct the reference in the policy.",
    )
