"""Counts by name in constant memory."""

from __future__ import annotations

from typing import Final

MAX_NAMES: Final = 1000
OTHERS: Final = "(others)"
"""What names beyond the first thousand are counted under."""


class Tally:
    """How often each name was seen; names beyond the first `MAX_NAMES` are counted together, never dropped."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def add(self, name: str, times: int = 1) -> None:
        """Count a name."""
        if name not in self._counts and len(self._counts) >= MAX_NAMES:
            name = OTHERS
        self._counts[name] = self._counts.get(name, 0) + times

    def __getitem__(self, name: str) -> int:
        """Return how often a name was seen, 0 for one that was not."""
        return self._counts.get(name, 0)

    @property
    def total(self) -> int:
        """All counts together."""
        return sum(self._counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """The counts, largest first, equal ones by name."""
        return dict(sorted(self._counts.items(), key=lambda item: (-item[1], item[0])))
