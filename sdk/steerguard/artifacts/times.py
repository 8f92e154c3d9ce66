"""Times in documents: UTC, whole seconds, one form `2026-01-31T12:00:00Z`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, Field

_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
_COMPACT: Final = "%Y%m%dT%H%M%SZ"


def parse_time(text: str) -> datetime:
    """Return the moment that a checked `UtcTime` names.

    Raises:
        ValueError: not of the form, or no such day or time.
    """
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)


def time_text(moment: datetime) -> str:
    """Return the text of a moment that knows its time zone, in UTC and cut to whole seconds."""
    return moment.astimezone(UTC).strftime(_FORM)


def compact_time(text: str) -> str:
    """Return a checked `UtcTime` in the form for file names, `20260131T120000Z`."""
    return parse_time(text).strftime(_COMPACT)


def _existing(text: str) -> str:
    parse_time(text)
    return text


UtcTime = Annotated[
    str,
    Field(pattern=r"^[12][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"),
    AfterValidator(_existing),
]
"""A time in a document, UTC, of the years 1000 to 2999."""
