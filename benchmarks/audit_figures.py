"""Tables of what was measured of the audit log, for `benchmarks/figures.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Table = tuple[Sequence[str], Sequence[tuple[str, Sequence[str]]]]

_NONE = "-"
_WAYS = {"kill_alone": "the process is killed", "power_cut": "killed, and what was not synced is lost"}


def cost(report: Mapping[str, Any]) -> Table:
    """Return what one record costs; ids are event, way, and `signed` or `unsigned`."""
    heads = ("event", "way", "signed", "median, µs", "p99, µs", "times a bare write", "times `logging`")
    rows = []
    for one in report["record"]:
        signed = {None: _NONE, True: "signed", False: "unsigned"}[one["signer"]]
        name = ".".join(part for part in (one["event"], one["way"], signed) if part != _NONE)
        numbers = (one["median_us"], one["p99_us"], one["times_write"], one["times_logging"])
        cells = (one["event"], one["way"], {"signed": "yes", "unsigned": "no"}.get(signed, _NONE))
        rows.append((name, (*cells, *(f"{number:.1f}" for number in numbers))))
    return heads, rows


def verification(report: Mapping[str, Any]) -> Table:
    """Return how fast logs are verified, and in how much memory; ids are `speed` and `memory`."""
    found, bar = report["verify"], report["bars"]["verify_records_per_second"]
    rows = [
        ("speed", ("default", f"{found['default']:,} records per second", f"at least {bar:,}")),
        ("speed", ("`--strict`", f"{found['strict']:,} records per second", _NONE)),
    ]
    rows += [
        (
            "memory",
            (
                f"a log of {one['records']:,} records",
                f"{one['seconds']} s, {one['grown_mib']} MiB more than at the start",
                _NONE,
            ),
        )
        for one in found["logs"]
    ]
    return ("verification", "measured", "bar"), rows


def tampering(report: Mapping[str, Any]) -> Table:
    """Return how many random ways to tamper with a directory were found at the right place; ids are the kinds."""
    rows = [
        (kind.replace(" ", "_"), (kind, str(one["cases"]), str(one["right"]))) for kind, one in report["kinds"].items()
    ]
    return ("kind of tampering", "cases", "found, at the right place"), rows


def crashes(report: Mapping[str, Any]) -> Table:
    """Return what kills of writing processes cost; ids are `kill_alone` and `power_cut`."""
    heads = (
        "what happens",
        "cases",
        "acknowledged records",
        "refusals, bypasses, errors",
        "of these lost",
        "others lost",
    )
    rows = []
    for name, words in _WAYS.items():
        one = report[name]
        lost = "0" if report["broken_promises"] == 0 else "see the result file"
        others = f"{one['lost_allowed']:,}, at most {one['oldest_lost_milliseconds']} ms old"
        acknowledged = (one["acknowledged"], one["acknowledged_refusals_bypasses_errors"])
        cells = (words, str(one["cases"]), *(f"{number:,}" for number in acknowledged), lost)
        rows.append((name, (*cells, others if one["lost_allowed"] else "0")))
    return heads, rows


TABLES: Mapping[str, Callable[[Mapping[str, Any]], Table]] = {
    "audit_cost": cost,
    "audit_verification": verification,
    "audit_tampering": tampering,
    "audit_crashes": crashes,
}
FILES: Mapping[str, str] = {"audit_verification": "audit_cost"}
