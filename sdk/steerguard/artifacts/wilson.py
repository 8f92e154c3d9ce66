"""The interval of Wilson (1927) for a share."""

from __future__ import annotations

import math

_Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


def wilson_interval(count: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, which stays inside [0, 1] and is sound at 0 and at `of`.

    Args:
        count: outcomes that were seen, 0 … `of`.
        of: independent draws; with none the interval is all of [0, 1].
    """
    if of == 0:
        return (0.0, 1.0)
    z2 = _Z95 * _Z95
    centre = (count + z2 / 2) / (of + z2)
    spread = _Z95 / (of + z2) * math.sqrt(count * (of - count) / of + z2 / 4)
    return (max(0.0, centre - spread), min(1.0, centre + spread))
