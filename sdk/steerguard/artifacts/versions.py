"""Versions `MAJOR.MINOR.PATCH` and the ranges that references use: `^1`, `~1.2`, `1.2.0`, `>=1,<2`, `*`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from steerguard.errors import ArtifactReferenceError

Version = tuple[int, int, int]

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
VERSION_PATTERN = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}$"
_PARTIAL = re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{0,2}}")
_CLAUSE = re.compile(r"(>=|<=|==|!=|>|<|\^|~)?([0-9.]+)")

RANGE_FORMS = "^1, ~1.2, 1.2.0, >=1,<2 or *"


def parse_version(text: str) -> Version:
    """Return the three numbers of a full version.

    Raises:
        ArtifactReferenceError: not of the form `MAJOR.MINOR.PATCH`.
    """
    if re.fullmatch(VERSION_PATTERN, text) is None:
        raise ArtifactReferenceError(
            "A version has three numbers.", expected="MAJOR.MINOR.PATCH, for example 1.2.0", found=repr(text[:80])
        )
    major, minor, patch = (int(part) for part in text.split("."))
    return major, minor, patch


@dataclass(frozen=True, slots=True)
class VersionRange:
    """A conjunction of bounds; without a bound every version is admitted."""

    bounds: tuple[tuple[str, Version], ...]

    def admits(self, version: Version) -> bool:
        """Return whether the version lies within every bound."""
        return all(_holds(operator, version, bound) for operator, bound in self.bounds)


def parse_range(text: str) -> VersionRange:
    """Parse a range.

    `^` admits what keeps the left-most non-zero number, `~` what keeps the minor number (the major one if only that is
    given), a bare version exactly itself, and a comma joins bounds.
    Missing numbers of a bound are zero.

    Raises:
        ArtifactReferenceError: the text is none of the forms.
    """
    if text == "*":
        return VersionRange(())
    bounds: list[tuple[str, Version]] = []
    for part in text.split(","):
        match = _CLAUSE.fullmatch(part.strip(" "))
        if match is None or _PARTIAL.fullmatch(match[2]) is None:
            raise _malformed(text)
        operator, numbers = match[1], tuple(int(number) for number in match[2].split("."))
        if operator is None and len(numbers) != 3:
            raise _malformed(text)
        bounds.extend(_bounds(operator or "==", numbers))
    return VersionRange(tuple(bounds))


def _bounds(operator: str, numbers: tuple[int, ...]) -> list[tuple[str, Version]]:
    major, minor, patch = (*numbers, 0, 0)[:3]
    lower: Version = (major, minor, patch)
    if operator == "~":
        return [(">=", lower), ("<", (major + 1, 0, 0) if len(numbers) == 1 else (major, minor + 1, 0))]
    if operator == "^":
        if major > 0 or len(numbers) == 1:
            return [(">=", lower), ("<", (major + 1, 0, 0))]
        if minor > 0 or len(numbers) == 2:
            return [(">=", lower), ("<", (0, minor + 1, 0))]
        return [(">=", lower), ("<", (0, 0, patch + 1))]
    return [(operator, lower)]


def _holds(operator: str, version: Version, bound: Version) -> bool:
    outcomes = {
        ">=": version >= bound,
        "<=": version <= bound,
        ">": version > bound,
        "<": version < bound,
        "==": version == bound,
        "!=": version != bound,
    }
    return outcomes[operator]


def _malformed(text: str) -> ArtifactReferenceError:
    return ArtifactReferenceError(
        "This is not a version range.", expected=RANGE_FORMS, found=repr(text[:80]), next_step="Correct the range."
    )
