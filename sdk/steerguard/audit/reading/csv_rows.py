"""Decisions as flat rows for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

Record = Mapping[str, Any]

_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet may take a cell that begins so for a formula."""


def _readings(record: Record) -> str:
    return "; ".join(f"{one['source']}={_text(one['score'])}" for one in record["readings"])


def _thresholds(record: Record) -> str:
    return "; ".join(
        f"{one['source']}{'>=' if bound['bound'] == 'at_least' else '<'}{bound['value']} ({bound['rule']})"
        for one in record["readings"]
        for bound in one["thresholds"]
    )


def _doses(record: Record) -> str:
    return "; ".join(
        f"{dose['step']} x{dose['coefficient']} {dose['positions']}/{dose['expected_positions']}"
        for dose in record["doses"]
    )


def _part(part: str, name: str) -> Callable[[Record], object]:
    return lambda record: None if record.get(part) is None else record[part].get(name)


COLUMNS: Final[dict[str, Callable[[Record], object]]] = {
    "log": lambda record: record["log"],
    "seq": lambda record: record["seq"],
    "time": lambda record: record["t"],
    "request": lambda record: record["req"],
    "row": lambda record: record["row"],
    "request_id": lambda record: record.get("request_id"),
    "trace_id": lambda record: record.get("trace_id"),
    "tenant": lambda record: record.get("tenant"),
    "mode": lambda record: record["mode"],
    "intended": lambda record: record["intended"],
    "applied": lambda record: record["applied"],
    "cause": lambda record: record["cause"],
    "rules": lambda record: "; ".join(record["rules"]),
    "readings": _readings,
    "thresholds": _thresholds,
    "near": lambda record: any(reading.get("near") for reading in record["readings"]),
    "doses": _doses,
    "policy": _part("policy", "name"),
    "policy_version": _part("policy", "version"),
    "policy_digest": _part("policy", "digest"),
    "plan": lambda record: record["plan"],
    "model": _part("model", "name"),
    "architecture": _part("model", "architecture"),
    "dtype": _part("model", "dtype"),
    "artifacts": lambda record: "; ".join(f"{pin['ref']} {pin['digest']}" for pin in record["artifacts"]),
    "prompt_tokens": _part("usage", "prompt_tokens"),
    "generated_tokens": _part("usage", "generated_tokens"),
    "extra_forward_tokens": _part("usage", "extra_forward_tokens"),
    "cached_tokens": lambda record: record["usage"].get("cached_tokens", 0),
    "budget": _part("budget", "outcome"),
    "max_extra_forward_tokens": _part("budget", "max_extra_forward_tokens"),
    "search_method": _part("search", "method"),
    "search_outcome": _part("search", "outcome"),
    "search_cost": _part("search", "cost"),
    "template_cut": lambda record: record["template_cut"],
    "error": _part("err", "code"),
    "error_stage": _part("err", "stage"),
    "content_form": _part("content", "form"),
    "content_in": _part("content", "in"),
    "content_out": _part("content", "out"),
    "prev": lambda record: record["prev"],
}
"""Name of each column, in order, and its value; docs/audit-reading.md says what they mean."""


def header() -> bytes:
    """Return the first line."""
    return _line(list(COLUMNS))


def decision_row(record: Record) -> bytes:
    """Return one line for a guard.decision that fits its schema. Null is an empty cell, a truth value `true` or `false`."""
    return _line([_text(value(record)) for value in COLUMNS.values()])


def guarded(cell: str) -> str:
    """Return the cell, behind an apostrophe if a spreadsheet could take it for a formula; a negative number too."""
    return f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _line(cells: Sequence[str]) -> bytes:
    text = io.StringIO()
    # RFC 4180: CRLF, quotes where a cell holds a comma, a quote or a line end.
    csv.writer(text).writerow([guarded(cell) for cell in cells])
    return text.getvalue().encode("utf-8")
