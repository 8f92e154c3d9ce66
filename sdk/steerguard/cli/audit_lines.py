"""Records as text for people: one line for every event type, and the parts of a decision.

Nothing that is printed holds a character that a terminal acts on: a log that was written by somebody else may hold any.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Record = Mapping[str, Any]

_MISFIT_LENGTH: Final = 400


def outcome(record: Record) -> str:
    """Return the intended and the applied action of a decision, and whether there was no answer yet."""
    from steerguard.audit.reading.selection import announces

    early = ", before the answer" if announces(record) else ""
    return f"{record['intended']} → {record['applied']}{early}"


def visible(text: object) -> str:
    r"""Return the text with every character that does not print written as an escape, `\x1b` or `\u202e`."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )


def json_line(record: Record) -> str:
    """Return the record as JSON in printable ASCII, keys sorted; a sound line of a log comes out as it stands there."""
    return _ascii_json(record)


def json_array(records: Sequence[Record]) -> str:
    """Return the records as an indented JSON array in printable ASCII."""
    return "[" + ",".join(f"\n{_ascii_json(record, indent=2)}" for record in records) + "\n]"


def one_line(record: Record, *, fits: bool) -> str:
    """Return time, place, type and what happened.

    Args:
        record: any JSON object.
        fits: whether it fits the schema of its type; otherwise it is printed as it is, cut after 400 characters.
    """
    place = f"{record.get('t')}  {record.get('log')}/{record.get('seq')}  {record.get('type')}"
    if not fits:
        text = json_line(record)
        cut = f"{text[:_MISFIT_LENGTH]}…" if len(text) > _MISFIT_LENGTH else text
        return visible(f"{place}  (does not fit the schema) {cut}")
    bound = [f"{name} {record[name]}" for name in ("request_id", "trace_id", "tenant") if record.get(name)]
    said = _SAYS[record["type"]](record)
    return visible("  ".join(part for part in (place, said, ", ".join(bound)) if part))


def comparison(reading: Record) -> str:
    """Return a score and what it was compared with."""
    score = "not finite" if reading["score"] is None else f"{float(reading['score']):.4g}"
    bounds = [
        f"{'≥' if bound['bound'] == 'at_least' else '<'} {float(bound['value']):.4g} ({bound['rule']})"
        for bound in reading["thresholds"]
    ]
    # Records from before the score tolerance do not say.
    near = ", within the tolerance" if reading.get("near") else ""
    return f"{reading['source']} {score}" + (f" vs {', '.join(bounds)}" if bounds else "") + near


def dose(given: Record) -> str:
    """Return what one step did."""
    return (
        f"{given['step']} x{given['coefficient']}, {len(given['open_blocks'])} blocks, "
        f"{given['positions']}/{given['expected_positions']} positions"
    )


def _ascii_json(record: Record, indent: int | None = None) -> str:
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(record, sort_keys=True, separators=separators, indent=indent)
    except RecursionError:
        place = {"log": record.get("log"), "seq": record.get("seq"), "unprintable": "it is nested too deeply"}
        text = json.dumps(place, indent=indent)
    # The one character below 128 that JSON leaves as it is and a terminal may act on.
    return text.replace("\x7f", "\\u007f")


def _policy(policy: Record | None) -> str:
    return "no policy" if policy is None else f"{policy['name']} {policy['version']}"


def _of_request(record: Record) -> str:
    row = record.get("row")
    return ("" if record.get("req") is None else f" of {record['req']}") + ("" if row is None else f" row {row}")


def _open(record: Record) -> str:
    origin = f", forked from {record['forked_from']}" if record["forked_from"] else ""
    return (
        f"steerguard {record['sdk']}, Python {record['python']}, process {record['pid']}, content {record['content']}, "
        f"durability {record['durability']}{origin}"
    )


def _recovered(record: Record) -> str:
    kept = f", kept in {record['torn_file']}" if record["torn_file"] else ""
    return f"its process ended without closing it; {record['torn_bytes']} bytes set aside{kept}; by {record['by']}"


def _prune(record: Record) -> str:
    (first, last), (from_seq, to_seq) = record["segments"], record["records"]
    return (
        f"{record['pruned']}: segments {first}-{last} (records {from_seq}-{to_seq}) deleted after "
        f"{record['older_than_days']} days" + (f": {record['allowed']}" if record["allowed"] else "")
    )


def _key_rotate(record: Record) -> str:
    fate = ", the old one destroyed" if record["destroyed"] else ""
    return f"{record['purpose']} key {record['previous']} → {record['key']}{fate}"


def _swap(record: Record) -> str:
    return (
        f"{_policy(record['previous_policy'])} → {_policy(record['policy'])}, mode {record['mode']}, "
        f"for the {record['scope']}"
    )


def _reject(record: Record) -> str:
    rejected = "a policy that cannot be read" if record["rejected"] is None else _policy(record["rejected"])
    return f"{rejected} was not put in force: {record['code']}; {_policy(record['policy'])} stays"


def _revoked(record: Record) -> str:
    why = f" ({record['reason']})" if record["reason"] else ""
    return f"{record['artifact']['ref']} {record['state']}{why}, action {record['action']}"


def _decision(record: Record) -> str:
    rules = f" by {', '.join(record['rules'])}" if record["rules"] else ""
    error = f"; {record['err']['code']} in {record['err']['stage']}" if record["err"] else ""
    scores = "; ".join(comparison(reading) for reading in record["readings"])
    return f"{record['req']} row {record['row']}: {outcome(record)}, {record['cause']}{rules}{error}" + (
        f"; {scores}" if scores else ""
    )


def _request(record: Record) -> str:
    applied = ", ".join(f"{count} {action}" for action, count in record["applied"].items() if count)
    return (
        f"{record['req']}: {record['call']}, {record['rows']} rows ({applied or 'nothing applied'}), "
        f"{record['usage']['extra_forward_tokens']} extra forward tokens, {record['duration_us'] / 1000:.1f} ms"
    )


def _budget(record: Record) -> str:
    spent = "not counted" if record["spent"] is None else record["spent"]
    return f"{record['limit']}{_of_request(record)}: {spent} of {record['allowed']}, then {record['then']}"


def _bypass(record: Record) -> str:
    until = f", until {record['expires']}" if record["expires"] else ""
    return f"{record['kind']}{_of_request(record)}: {record['reason']}{until}"


def _error(record: Record) -> str:
    return f"{record['code']} in {record['stage']}{_of_request(record)}, then {record['outcome']}"


_SAYS: Final[dict[str, Callable[[Record], str]]] = {
    "log.open": _open,
    "log.close": lambda _record: "",
    "log.recovered": _recovered,
    "log.rotate": lambda record: f"segment {record['segment']}, after {record['size']} records",
    "log.prune": _prune,
    "log.hold": lambda record: f"{record['state']}: {record['reason']}",
    "log.key_rotate": _key_rotate,
    "checkpoint": lambda record: (
        f"{record['size']} records signed by {', '.join(record['signed_by'])}, {record['copies']} copies"
    ),
    "content.erased": lambda record: (
        f"{record['req']}, {record['rows']} rows in {record['in_log']}: {record['reason']}"
    ),
    "policy.load": lambda record: f"{_policy(record['policy'])}, mode {record['mode']}, on {record['model']['name']}",
    "policy.swap": _swap,
    "policy.reject": _reject,
    "artifact.load": lambda record: f"{record['artifact']['ref']} {record['artifact']['digest']}",
    "artifact.verify_failed": lambda record: f"{record['ref'] or 'an artifact'}: {record['code']}",
    "artifact.revoked": _revoked,
    "guard.decision": _decision,
    "guard.request": _request,
    "budget.exceeded": _budget,
    "guard.bypass": _bypass,
    "guard.error": _error,
}
