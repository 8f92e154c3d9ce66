"""Floating point numbers of a document as decimal strings, so that digests need no float."""

from __future__ import annotations

from typing import Any

from steerguard.methods.bounds import decimal_text


def without_floats(data: Any) -> Any:
    """Return JSON data with every float replaced by its decimal string."""
    if isinstance(data, float):
        return decimal_text(data)
    if isinstance(data, dict):
        return {key: without_floats(value) for key, value in data.items()}
    if isinstance(data, list):
        return [without_floats(value) for value in data]
    return data
