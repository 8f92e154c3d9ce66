"""One difference between two artifacts: what it is about, and a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One change."""

    about: str
    """Part of the artifact, for example `params` or `benchmarks`."""
    text: str
    """One sentence or line in plain words."""

    @property
    def line(self) -> str:
        """Both, for a terminal."""
        return f"{self.about}: {self.text}"


def about(subject: str) -> Callable[[Callable[_P, Iterator[str]]], Callable[_P, Iterator[Difference]]]:
    """Turn a function that yields sentences into one that yields differences about the subject."""

    def decorate(sentences: Callable[_P, Iterator[str]]) -> Callable[_P, Iterator[Difference]]:
        @wraps(sentences)
        def found(*args: _P.args, **kwargs: _P.kwargs) -> Iterator[Difference]:
            for text in sentences(*args, **kwargs):
                yield Difference(about=subject, text=text)

        return found

    return decorate
