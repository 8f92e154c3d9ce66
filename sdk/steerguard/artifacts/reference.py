"""References to artifacts: `family@range`, `family/variant@range`, `file:///registry#family@range`, `hf://org/name@range`.

A policy names a *family*; the plan picks the variant that is bound to the wrapped model.
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

_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})")
_FORMS = "family@range, family/variant@range, file:///absolute/registry#family@range or hf://organisation/name@range"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReference:
    """One parsed reference."""

    backend: Backend
    family: str
    """Family name; for `hf` the repository `organisation/name`."""
    range: str = "*"
    """Version range as written; `*` when the reference has none."""
    variant: str | None = None
    """A variant named on purpose; None lets the model decide."""
    location: str | None = None
    """Absolute path of the registry; `file` only."""

    def admits(self, version: str) -> bool:
        """Return whether this full version lies in the range.

        Raises:
            ArtifactReferenceError: `version` is not `MAJOR.MINOR.PATCH`.
        """
        return parse_range(self.range).admits(parse_version(version))

    def __str__(self) -> str:
        name = self.family if self.variant is None else f"{self.family}/{self.variant}"
        tail = f"{name}@{self.range}"
        if self.backend == "file":
            return f"file://{quote(self.location or '')}#{tail}"
        return f"hf://{tail}" if self.backend == "hf" else tail


def parse_reference(text: str) -> ArtifactReference:
    """Parse the text of a reference; nothing is looked up.

    Raises:
        ArtifactReferenceError: the text is none of the forms, or its range is none.
    """
    if text.startswith("hf://"):
        name, range_ = _split(text, text.removeprefix("hf://"))
        if _HUB_NAME.fullmatch(name) is None:
            raise _malformed(text, "a Hub repository is organisation/name")
        return ArtifactReference(backend="hf", family=name, range=range_)
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
