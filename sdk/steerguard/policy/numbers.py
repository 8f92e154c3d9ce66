"""Floating point numbers of a document as decimal strings, so that digests need no float."""

from __future__ import annotations

from decimal import Decimal
from typing import Any


def decimal_text(number: float) -> str:
    """Return the shortest decimal string without exponent that reads back as the same float.

    `1e-05` becomes `0.00001`, `2.0` stays `2.0`, and negative zero becomes `0.0`.
    """
    text = format(Decimal(repr(number or 0.0)), "f")
    return text if "." in text else f"{text}.0"


def without_floats(data: Any) -> Any:
    """Return JSON data with every float replaced by its decimal string."""
    if isinstance(data, float):
        return decimal_text(data)
    if isinstance(data, dict):
        return {key: without_floats(value) for key, value in data.items()}
    if isinstance(data, list):
        return [without_floats(value) for value in data]
    return data
