"""Decisions over time in constant memory: spans of time grow longer when there are too many of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from steerguard.decision import ACTION_ORDER

MAX_SPANS: Final = 62
"""Spans from the first to the last decision, at most; two months of days."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
WIDTHS: Final = (
    _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, _DAY, 7 * _DAY, 28 * _DAY, 364 * _DAY,
    3640 * _DAY, 36_400 * _DAY, 364_000 * _DAY,
)  # fmt: skip
"""Length of a span in seconds, shortest first; each a multiple of the one before, so that spans merge whole."""


class Volume:
    """Counts of decisions by intended and by applied action, per span of time in UTC."""

    def __init__(self) -> None:
        self._rank = 0
        self._spans: dict[int, list[int]] = {}

    @property
    def seconds(self) -> int:
        """Length of a span."""
        return WIDTHS[self._rank]

    def add(self, time: str, intended: str, applied: str) -> None:
        """Count a decision; `time` as records write it."""
        moment = _seconds(time)
        counts = [0] * (2 * len(ACTION_ORDER))
        counts[ACTION_ORDER.index(intended)] = 1
        counts[len(ACTION_ORDER) + ACTION_ORDER.index(applied)] = 1
        self._put(self._spans, moment // self.seconds, counts)
        while max(self._spans) - min(self._spans) >= MAX_SPANS and self._rank + 1 < len(WIDTHS):
            self._widen()

    def rows(self) -> list[dict[str, Any]]:
        """Return every span from the first to the last decision, oldest first, empty ones included."""
        if not self._spans:
            return []
        actions, empty = len(ACTION_ORDER), [0] * (2 * len(ACTION_ORDER))
        return [
            {
                "start": _stamp(index * self.seconds),
                "intended": dict(zip(ACTION_ORDER, self._spans.get(index, empty)[:actions], strict=True)),
                "applied": dict(zip(ACTION_ORDER, self._spans.get(index, empty)[actions:], strict=True)),
            }
            for index in range(min(self._spans), max(self._spans) + 1)
        ]

    def _widen(self) -> None:
        before = self.seconds
        self._rank += 1
        spans, self._spans = self._spans, {}
        for index, counts in spans.items():
            self._put(self._spans, index * before // self.seconds, counts)

    @staticmethod
    def _put(spans: dict[int, list[int]], index: int, counts: list[int]) -> None:
        known = spans.setdefault(index, [0] * len(counts))
        for place, count in enumerate(counts):
            known[place] += count


def _seconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() // 1)


def _stamp(seconds: int) -> str:
    # The first span may begin before the year 1, where no date is.
    earliest = int(datetime.min.replace(tzinfo=UTC).timestamp())
    return datetime.fromtimestamp(max(seconds, earliest), UTC).strftime("%Y-%m-%dT%H:%MZ")
