"""Counts over a range that is not known beforehand, in constant memory: a bin grows to twice its width when there are too many."""

from __future__ import annotations

import math
from typing import Final

from steerguard.audit.reading.quantiles import GREATEST

MAX_BINS: Final = 64
SMALLEST_WIDTH: Final = 2.0**-40


class Histogram:
    """Numbers in at most `MAX_BINS` bins of one width, a power of two; bin i holds `[i * width, (i + 1) * width)`."""

    __slots__ = ("bins", "width")

    def __init__(self) -> None:
        self.width = SMALLEST_WIDTH
        self.bins: dict[int, int] = {}

    def add(self, number: float) -> None:
        """Count one finite number; magnitudes above `GREATEST` count as that."""
        number = min(max(number, -GREATEST), GREATEST)
        while self.width < math.ulp(number):
            # So that the ends of every bin are floats.
            self._widen()
        # A quotient would round the tiniest negative numbers to zero.
        index = int(number // self.width)
        lowest, highest = min(self.bins, default=index), max(self.bins, default=index)
        while max(highest, index) - min(lowest, index) >= MAX_BINS:
            self._widen()
            index, lowest, highest = index // 2, lowest // 2, highest // 2
        self.bins[index] = self.bins.get(index, 0) + 1

    def rows(self) -> list[tuple[float, float, int]]:
        """Return lower end, upper end and count of every bin from the first to the last that holds something."""
        if not self.bins:
            return []
        span = range(min(self.bins), max(self.bins) + 1)
        return [(index * self.width, (index + 1) * self.width, self.bins.get(index, 0)) for index in span]

    def _widen(self) -> None:
        self.width *= 2
        merged: dict[int, int] = {}
        for index, count in self.bins.items():
            merged[index // 2] = merged.get(index // 2, 0) + count
        self.bins = merged
