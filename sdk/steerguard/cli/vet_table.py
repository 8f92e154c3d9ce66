"""A vetting record in a terminal: checks, figures with bars and intervals, verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from steerguard.artifacts.vetting import VettingRecord

_SHOWN = 300


def show(console: Console, reference: str, record: VettingRecord, place: Path, key_id: str) -> None:
    """Print what was found, and where the signed statement lies."""
    suite = "no suite" if record.suite is None else f"suite {record.suite.name} {record.suite.version}"
    console.print(f"{reference}, level {record.level}, {suite}.", markup=False)
    checks = Table("check", "passed", "found", box=SIMPLE_HEAD)
    for check in record.static_checks:
        found = check.found if len(check.found) <= _SHOWN else f"{check.found[:_SHOWN]}…"
        checks.add_row(check.id, "yes" if check.passed else "NO", Text(found))
    console.print(checks)
    if record.results:
        figures = Table("figure", "on", "value", "95 % interval", "n", "bar", "passed", box=SIMPLE_HEAD)
        for result in record.results:
            interval = "" if result.low is None else f"{result.low} to {result.high}"
            passed = "" if result.passed is None else "yes" if result.passed else "NO"
            figures.add_row(result.title, result.set, result.value, interval, str(result.n), result.bar or "", passed)
        console.print(figures)
    for condition in record.conditions:
        console.print(condition, markup=False, soft_wrap=True)
    console.print(f"Verdict: {record.verdict}. Signed by {key_id}, until {record.expires_at}.", markup=False)
    console.print(f"Wrote {place}", markup=False, soft_wrap=True)
