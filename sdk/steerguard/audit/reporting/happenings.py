"""What happened beside decisions, told once each: equal events are one entry with its first and last time and a count."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_ENTRIES: Final = 400
"""Different entries of one kind that are kept, those seen last; what was left out is counted."""

Record = Mapping[str, Any]


@dataclass(slots=True)
class Happening:
    """One thing that happened, once or more often."""

    first: str
    last: str
    kind: str
    """Event type."""
    what: str
    """In words; values come from the records as they are."""
    times: int = 1


class Happenings:
    """Distinct happenings in bounded memory."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], Happening] = OrderedDict()
        self.left_out = 0
        """Entries that were dropped because there were too many different ones."""

    def add(self, record: Record, what: str) -> None:
        """Tell what a record says, in words that are the same for equal events."""
        key, time = (record["type"], what), record["t"]
        known = self._entries.get(key)
        if known is None:
            self._entries[key] = Happening(first=time, last=time, kind=record["type"], what=what)
        else:
            known.first, known.last, known.times = min(known.first, time), max(known.last, time), known.times + 1
        self._entries.move_to_end(key)
        if len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)
            self.left_out += 1

    def rows(self) -> list[Happening]:
        """Return all entries, by the time of their first event."""
        return sorted(self._entries.values(), key=lambda entry: (entry.first, entry.kind, entry.what))


def change(record: Record) -> str | None:
    """Say what changed in policies and artifacts; None for records of other types."""
    tell = _CHANGES.get(record["type"])
    return None if tell is None else tell(record)


def upkeep(record: Record) -> str | None:
    """Say what was done to the logs themselves: keys, segments, retention, holds, recovery; None for other records."""
    tell = _UPKEEP.get(record["type"])
    return None if tell is None else tell(record)


def bypass(record: Record) -> str:
    """Say what passed without full guidance, who allowed it and until when."""
    until = f", allowed until {record['expires']}" if record["expires"] else ""
    policy = f", under policy {_policy(record['policy'])}" if record["policy"] else ""
    return f"{record['kind']}: {record['reason'] or 'no reason given'}{until}{policy}"


def _policy(policy: Record) -> str:
    return f"{policy['name']} {policy['version']} ({_short(policy['digest'])})"


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def _model(model: Record) -> str:
    return f"{model['name'] or model['architecture']}, {model['dtype']}"


def _pins(record: Record) -> str:
    names = ", ".join(f"{pin['ref']} ({_short(pin['digest'])})" for pin in record["artifacts"])
    return f" with {names}" if names else ""


def _load(record: Record) -> str:
    plan = _short(record["plan"])
    return (
        f"{_policy(record['policy'])}, plan {plan}, mode {record['mode']}, on {_model(record['model'])}{_pins(record)}"
    )


def _swap(record: Record) -> str:
    return f"{_policy(record['previous_policy'])} → {_load(record)}, for single requests"


def _reject(record: Record) -> str:
    asked = _policy(record["rejected"]) if record["rejected"] else "a document that could not be read"
    stays = f"; {_policy(record['policy'])} stays" if record["policy"] else ""
    return f"{asked}: {record['code']}{stays}"


def _artifact(record: Record) -> str:
    pin = record["artifact"]
    signers = ", ".join(record.get("signed_by") or ()) or "no signature asked for"
    level = record.get("vetting_level")
    vetted = "not vetted" if level is None else f"vetting level {level}"
    return f"{pin['ref']} ({_short(pin['digest'])}), {record['artifact_type']}, {signers}, {vetted}"


def _failed(record: Record) -> str:
    digest = f" ({_short(record['digest'])})" if record["digest"] else ""
    return f"{record['ref'] or 'an artifact without a name'}{digest}: {record['code']}"


def _revoked(record: Record) -> str:
    pin = record["artifact"]
    reason = f", {record['reason']}" if record["reason"] else ""
    registry = f", said by {record['registry']}" if record["registry"] else ""
    allowed = f", allowed because: {record['allowed']}" if record["allowed"] else ""
    return f"{pin['ref']} ({_short(pin['digest'])}): {record['state']}{reason}, action {record['action']}{registry}{allowed}"


def _prune(record: Record) -> str:
    first, last = record["records"]
    allowed = f", allowed because: {record['allowed']}" if record["allowed"] else ""
    return (
        f"records {first} to {last} of log {record['pruned']}, from {record['first_t'][:10]} to {record['last_t'][:10]}, "
        f"older than {record['older_than_days']} days{allowed}"
    )


def _key_rotate(record: Record) -> str:
    destroyed = ", the old one destroyed" if record["destroyed"] else ""
    return f"{record['purpose']} key {record['previous']} → {record['key']}{destroyed}"


def _recovered(record: Record) -> str:
    kept = f", kept in {record['torn_file']}" if record["torn_file"] else ""
    return (
        f"log {record['log']} ended without closing; {record['torn_bytes']} torn bytes were set aside{kept}; "
        f"recovered by {record['by']}"
    )


_CHANGES: Final[dict[str, Callable[[Record], str]]] = {
    "policy.load": _load,
    "policy.swap": _swap,
    "policy.reject": _reject,
    "artifact.load": _artifact,
    "artifact.verify_failed": _failed,
    "artifact.revoked": _revoked,
}

_UPKEEP: Final[dict[str, Callable[[Record], str]]] = {
    "log.recovered": _recovered,
    "log.prune": _prune,
    "log.hold": lambda record: f"legal hold {record['state']}: {record['reason'] or 'no reason given'}",
    "log.key_rotate": _key_rotate,
    "content.erased": lambda record: (
        f"request {record['req']} in log {record['in_log']}, rows erased: {record['rows']}, because: {record['reason'] or 'no reason given'}"
    ),
}
