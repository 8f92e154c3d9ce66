"""Quantiles of any number of numbers in constant memory, with a bounded error.

Numbers are counted in buckets whose bounds grow by a constant factor, as in DDSketch (Masson, Rim and Lee,
PVLDB 12(12), 2019): a quantile that is read from them is off by at most one per cent of itself.
"""

from __future__ import annotations

import math
from typing import Final

RELATIVE_ERROR: Final = 0.01
"""A quantile is off by at most this share of the exact one, plus `ABSOLUTE_ERROR`."""
ABSOLUTE_ERROR: Final = 1e-9
"""Numbers nearer to zero than this count as zero."""
GREATEST: Final = 1e15
"""Magnitudes above this are counted together, so the error holds up to here only."""

_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GROWTH: Final = math.log(_GROWTH)
_LAST: Final = math.ceil(math.log(GREATEST) / _LOG_GROWTH)


class Quantiles:
    """Numbers that were seen, in at most some 5,600 buckets whatever they are; a few hundred for scores or durations."""

    __slots__ = ("_buckets", "count", "greatest", "least", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        """Their sum, as floats add up."""
        self.least = math.inf
        """Exact; infinity when there are none."""
        self.greatest = -math.inf
        """Exact; minus infinity when there are none."""
        self._buckets: dict[tuple[int, int], int] = {}
        """Count by sign and exponent times sign, so that the order of the keys is that of the numbers."""

    def add(self, number: float) -> None:
        """Count one finite number."""
        self.count += 1
        self.total += number
        self.least = min(self.least, number)
        self.greatest = max(self.greatest, number)
        key = _bucket(number)
        self._buckets[key] = self._buckets.get(key, 0) + 1

    def at(self, share: float) -> float | None:
        """Return the number that at least this share of all are no greater than; None when there are none.

        Args:
            share: in [0, 1]; 0.5 for the median. The rank is `ceil(share * count)`, at least 1.
        """
        rank = max(1, math.ceil(share * self.count))
        for key, count in sorted(self._buckets.items()):
            rank -= count
            if rank <= 0:
                return min(max(_middle(key), self.least), self.greatest)
        return None


def _bucket(number: float) -> tuple[int, int]:
    magnitude = abs(number)
    if magnitude < ABSOLUTE_ERROR:
        return (0, 0)
    exponent = min(math.ceil(math.log(magnitude) / _LOG_GROWTH), _LAST)
    return (1, exponent) if number > 0 else (-1, -exponent)


def _middle(key: tuple[int, int]) -> float:
    """Return what is as near, relatively, to the low as to the high bound of a bucket."""
    sign, exponent = key
    return 0.0 if sign == 0 else float(sign * 2 * _GROWTH ** (sign * exponent) / (_GROWTH + 1))
