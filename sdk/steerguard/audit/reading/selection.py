"""Which records of a log a reader asked for, and whether a record is what its type promises.

Verification in its default form checks the chain, not the schema of every record, so a record that verified may still
hold anything: who reads fields asks `fits` first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any, Final

import orjson
from pydantic import ValidationError

from steerguard.audit.records.events import RECORDS
from steerguard.errors import AuditError

ALL_TYPES: Final = "all"
"""Stands for every event type."""

_MOMENT: Final = re.compile(
    r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", flags=re.ASCII
)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", flags=re.ASCII)
_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])", flags=re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a record must be to be read; None admits everything, and all that is set must hold.

    A record that has no such field is not admitted by what is asked of it.
    """

    request: str | None = None
    """The guard's id of the request, or the one that the host bound as `request_id`."""
    types: frozenset[str] | None = None
    since: str | None = None
    """The earliest time, as records write it; see `moment`."""
    until: str | None = None
    """The first time that is too late."""
    intended: str | None = None
    """Intended action of a decision."""
    action: str | None = None
    """Applied action of a decision."""
    cause: str | None = None
    rule: str | None = None
    """A rule that matched."""
    policy: str | None = None
    """Name of the policy in force, or of a rejected one."""
    tenant: str | None = None
    log: str | None = None

    def admits(self, record: Mapping[str, Any]) -> bool:
        """Say whether the record is asked for; it need not fit its schema."""
        return (
            (self.types is None or _one_of(record.get("type"), self.types))
            and (self.log is None or record.get("log") == self.log)
            and (self.request is None or self.request in (record.get("req"), record.get("request_id")))
            and self._admits_time(record.get("t"))
            and (self.tenant is None or record.get("tenant") == self.tenant)
            and (self.intended is None or record.get("intended") == self.intended)
            and (self.action is None or record.get("applied") == self.action)
            and (self.cause is None or record.get("cause") == self.cause)
            and (self.rule is None or _lists(record.get("rules"), self.rule))
            and (self.policy is None or self.policy in (_name(record.get("policy")), _name(record.get("rejected"))))
        )

    def _admits_time(self, t: object) -> bool:
        if self.since is None and self.until is None:
            return True
        # All timestamps of records have one form, in which the order of texts is that of times.
        return isinstance(t, str) and (self.since is None or t >= self.since) and (self.until is None or t < self.until)


def fits(record: Mapping[str, Any]) -> bool:
    """Say whether a record is one of the closed set of events and fits the schema of its type."""
    kind = record.get("type")
    model = RECORDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return False
    try:
        model.model_validate_json(orjson.dumps(record))
    except (ValidationError, TypeError):
        return False
    return True


def moment(text: str, *, now: datetime) -> str:
    """Return a time as records write it.

    Args:
        text: RFC 3339 with an offset; a date, which stands for its beginning in UTC; or a span before `now`, a number
            and one of the letters s, m, h, d, w: `24h`, `7d`.
        now: the time that spans are counted from, with a time zone.

    Raises:
        AuditError: the text is none of these, or no such time exists.
    """
    try:
        if (span := _SPAN.fullmatch(text)) is not None:
            return _stamp(now - timedelta(**{_UNITS[span[2]]: int(span[1])}))
        if _DAY.fullmatch(text) is not None:
            return _stamp(datetime.fromisoformat(text).replace(tzinfo=UTC))
        if _MOMENT.fullmatch(text) is not None:
            return _stamp(datetime.fromisoformat(text.upper()))
    except (ValueError, OverflowError):
        pass
    raise AuditError(
        "This is not a time.",
        expected="2026-11-23T14:00:00Z, 2026-11-23, or a span such as 24h or 7d",
        found=ascii(text[:60]),
        next_step="Give a time with its offset, a date, or how long ago.",
    )


def event_types(patterns: Sequence[str]) -> frozenset[str]:
    """Return the event types that are named: by name, by a pattern such as `log.*`, or `all`.

    Raises:
        AuditError: one names no event type.
    """
    found: set[str] = set()
    for pattern in patterns:
        matching = {kind for kind in RECORDS if pattern == ALL_TYPES or fnmatchcase(kind, pattern)}
        if not matching:
            raise AuditError(
                "There is no such event type.",
                expected=f"one of {', '.join(RECORDS)}; a pattern such as `log.*`; or {ALL_TYPES}",
                found=ascii(pattern[:60]),
            )
        found |= matching
    return frozenset(found)


def _stamp(time: datetime) -> str:
    return f"{time.astimezone(UTC).isoformat(timespec='microseconds').removesuffix('+00:00')}Z"


def _one_of(value: object, names: frozenset[str]) -> bool:
    return isinstance(value, str) and value in names


def _lists(value: object, name: str) -> bool:
    return isinstance(value, list) and name in value


def _name(policy: object) -> object:
    return policy.get("name") if isinstance(policy, dict) else None
