"""What is wrong with a document, with its place: collected first, then raised as one error."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from steerguard.errors import SteerguardError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ErrorT = TypeVar("ErrorT", bound=SteerguardError)

Path = tuple[str | int, ...]
"""Keys and list indices from the top of the document to one value."""

MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in a file, both numbers counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, and where."""

    file: str
    position: Position | None
    field: str
    """Dotted path with 0-based list positions, for example `guidance.1.coefficient`; empty for the whole document."""
    message: str
    expected: str | None = None
    found: str | None = None
    hint: str | None = None

    @property
    def place(self) -> str:
        """Return `file:line:column, field path`, as far as known."""
        place = self.file
        if self.position is not None:
            place += f":{self.position.line}:{self.position.column}"
        return f"{place}, field {self.field}" if self.field else place

    def __str__(self) -> str:
        """Return the problem on one line."""
        parts = [self.message.rstrip(".")]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.found is not None:
            parts.append(f"found {self.found}")
        if self.hint is not None:
            parts.append(self.hint)
        return f"{self.place}: {'; '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Problems:
    """All problems of one document in the order of the file; the `where` of a policy error."""

    entries: tuple[Problem, ...]

    def __iter__(self) -> Iterator[Problem]:
        """Iterate over the problems in the order of the file."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Return how many problems there are."""
        return len(self.entries)

    def __str__(self) -> str:
        """Return the place of a single problem, or one line for each of several."""
        if len(self.entries) == 1:
            return self.entries[0].place
        return "".join(f"\n    {entry}" for entry in self.entries)


def dotted(path: Path) -> str:
    """Return a path as text: `('guidance', 1, 'method')` is `guidance.1.method`."""
    return ".".join(str(part) for part in path)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a misspelt word most likely meant, if one is close."""
    close = difflib.get_close_matches(word.lower(), list(choices), n=1, cutoff=0.6)
    return close[0] if close else None


def shown(value: object) -> str:
    """Return a value of a document as a short phrase that names its kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        text = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…"
        return f"the text {text!r}"
    return "a list" if isinstance(value, (list, tuple)) else "a mapping"


def error_of(kind: type[ErrorT], problems: Iterable[Problem], *, file: str) -> ErrorT:
    """Return one error of the given class that states every problem, ordered by place."""
    ordered = tuple(sorted(problems, key=_order))
    where = Problems(ordered)
    if len(ordered) == 1:
        only = ordered[0]
        return kind(only.message, expected=only.expected, found=only.found, where=where, next_step=only.hint)
    return kind(f"{file} has {len(ordered)} problems.", where=where, next_step="Correct each line listed above.")


def _order(problem: Problem) -> tuple[int, int]:
    return (problem.position.line, problem.position.column) if problem.position is not None else (0, 0)
