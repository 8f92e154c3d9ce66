"""Lengths of time as documents write them: a whole number and a unit, `30s`, `10m`, `12h` or `7d`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field

DURATION_PATTERN: Final = r"^[1-9][0-9]{0,5}[smhd]$"

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

DurationText = Annotated[
    str, Field(pattern=DURATION_PATTERN, json_schema_extra={"x-unit": "whole number and s, m, h or d"})
]
"""From one second to 999999 days; never without a unit."""


def duration(text: str) -> timedelta:
    """Return the length of time that a checked `DurationText` names."""
    return timedelta(**{_UNITS[text[-1]]: int(text[:-1])})
