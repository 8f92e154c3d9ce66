"""Figures in words: shares, times and lengths of time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def counts_in_words(counts: Mapping[str, int]) -> str:
    """Return counts by name in one line."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def interval(share: Mapping[str, Any]) -> str:
    """Return the 95 % interval of a share, and what it is a share of."""
    return (
        f"95\u00a0% interval {percent(share['low'])} to {percent(share['high'])}, {share['count']:,} of {share['of']:,}"
    )


def percent(share: float) -> str:
    """Return a share in per cent, two digits after the point."""
    return f"{share * 100:.2f}\u00a0%"


def minute(time: str) -> str:
    """Return a time of a record to the minute."""
    return f"{time[:10]} {time[11:16]}"


def length(seconds: int) -> str:
    """Return a length of whole minutes, hours or days."""
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return name if count == 1 else f"{count} {name}s"
    return f"{seconds} seconds"


def duration(microseconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    for size, unit in ((86_400e6, "days"), (3600e6, "h"), (60e6, "min"), (1e6, "s"), (1e3, "ms")):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} µs"
