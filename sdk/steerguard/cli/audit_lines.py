"""Records as text for people: one line for every event type, and the parts of a decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from steerguard.audit.reading.announcement import announces
from steerguard.audit.reporting.happenings import change, upkeep
from steerguard.cli.visible import ascii_json, visible

Record = Mapping[str, Any]

_MISFIT_LENGTH: Final = 400


def outcome(record: Record) -> str:
    """Return the intended and the applied action of a decision, and whether there was no answer yet."""
    early = ", before the answer" if announces(record) else ""
    return f"{record['intended']} → {record['applied']}{early}"


def json_line(record: Record) -> str:
    """Return the record as JSON in printable ASCII, keys sorted; a sound line of a log comes out as it stands there."""
    return _json(record, indent=None)


def json_array(records: Sequence[Record]) -> str:
    """Return the records as an indented JSON array in printable ASCII."""
    return "[" + ",".join(f"\n{_json(record, indent=2)}" for record in records) + "\n]"


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
    said = change(record) or upkeep(record) or _SAYS[record["type"]](record)
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


def _json(record: Record, *, indent: int | None) -> str:
    try:
        return ascii_json(record, indent=indent)
    except RecursionError:
        place = {"log": record.get("log"), "seq": record.get("seq"), "unprintable": "it is nested too deeply"}
        return ascii_json(place, indent=indent)


def _of_request(record: Record) -> str:
    row = record.get("row")
    return ("" if record.get("req") is None else f" of {record['req']}") + ("" if row is None else f" row {row}")


def _open(record: Record) -> str:
    origin = f", forked from {record['forked_from']}" if record["forked_from"] else ""
    return (
        f"steerguard {record['sdk']}, Python {record['python']}, process {record['pid']}, content {record['content']}, "
        f"durability {record['durability']}{origin}"
    )


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
    return f"{record['kind']}{_of_request(record)}: {record['reason'] or 'no reason given'}{until}"


def _error(record: Record) -> str:
    return f"{record['code']} in {record['stage']}{_of_request(record)}, then {record['outcome']}"


_SAYS: Final[dict[str, Callable[[Record], str]]] = {
    "log.open": _open,
    "log.close": lambda _record: "",
    "log.rotate": lambda record: f"segment {record['segment']}, after {record['size']} records",
    "checkpoint": lambda record: (
        f"{record['size']} records signed by {', '.join(record['signed_by'])}, {record['copies']} copies"
    ),
    "guard.decision": _decision,
    "guard.request": _request,
    "budget.exceeded": _budget,
    "guard.bypass": _bypass,
    "guard.error": _error,
}
