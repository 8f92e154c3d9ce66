"""Decisions that were recorded before there was an answer, as for streams: a complete record follows under the same id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def announces(record: Mapping[str, Any]) -> bool:
    """Say whether a record announces a decision: it says nothing of an answer. The record need not fit its schema."""
    content = record.get("content")
    return (
        record.get("type") == "guard.decision"
        and isinstance(content, dict)
        and all(content.get(size, 0) is None for size in ("out_tokens", "out_chars"))
    )
