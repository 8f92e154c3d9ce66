"""`steerguard audit query`: show records, only those that verify."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from steerguard.cli.audit_answer import USAGE, refuse
from steerguard.cli.audit_lines import comparison, dose, json_array, json_line, one_line, outcome
from steerguard.cli.audit_options import AsJson, AsLines, LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.audit_reading import (
    Action,
    Cause,
    Intended,
    Log,
    Policy,
    Request,
    Rule,
    Since,
    Tenant,
    Types,
    Until,
    exit_code,
    point_out_last,
    read,
    selection,
)
from steerguard.cli.audit_table import print_table
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

DECISION = "guard.decision"
_HEADINGS = ("time", "request", "row", "mode", "score vs threshold", "intended → applied", "cause, rules", "doses")


def query(
    path: LogPath,
    *,
    request: Request = None,
    types: Types = None,
    action: Action = None,
    intended: Intended = None,
    cause: Cause = None,
    rule: Rule = None,
    policy: Policy = None,
    tenant: Tenant = None,
    log: Log = None,
    since: Since = None,
    until: Until = None,
    last: Annotated[int, typer.Option(min=1, help="At most so many records, the newest.")] = 20,
    as_json: AsJson = False,
    as_lines: AsLines = False,
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
) -> None:
    """Show decisions, or records of other types, oldest first; only records that verify.

    Exit status as for `verify`. A record that is the last of its log and that nothing confirms yet is shown with a warning.
    """
    if as_json and as_lines:
        refuse("Give --json or --jsonl, not both.")
    with reported(USAGE):
        from steerguard.audit.reading.selection import event_types

        chosen = selection(
            request=request,
            types=event_types(types) if types else frozenset({DECISION}),
            action=action,
            intended=intended,
            cause=cause,
            rule=rule,
            policy=policy,
            tenant=tenant,
            log=log,
            since=since,
            until=until,
        )
        newest = _Newest(last)

        def keep(record: dict[str, Any]) -> None:
            if chosen.admits(record):
                newest.add(record)

        report = read(path, pins_of(keys, checkpoints), keep)
    rows = newest.records
    if not rows:
        say("No record was found.", err=True)
    misfits = _print(rows, as_json=as_json, as_lines=as_lines, table=chosen.types == frozenset({DECISION}))
    point_out_last(report, [(row["log"], row["seq"]) for row in rows])
    raise typer.Exit(exit_code(report, misfits=misfits))


class _Newest:
    """The newest records by time, at most so many; of one log in their order."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._heap: list[tuple[str, str, int, dict[str, Any]]] = []
        self._latest = ("", "")

    def add(self, record: dict[str, Any]) -> None:
        # Within a log the chain decides, also where the clock was set back.
        log, latest = self._latest
        latest = max(latest, record["t"]) if record["log"] == log else record["t"]
        self._latest = (record["log"], latest)
        # Log and sequence number differ from record to record, so records themselves are never compared.
        entry = (latest, record["log"], record["seq"], record)
        (heapq.heappush if len(self._heap) < self._count else heapq.heappushpop)(self._heap, entry)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Oldest first."""
        return [entry[-1] for entry in sorted(self._heap, key=lambda entry: entry[:-1])]


def _print(rows: Sequence[dict[str, Any]], *, as_json: bool, as_lines: bool, table: bool) -> int:
    """Print the records and return how many do not fit the schema of their type."""
    from steerguard.audit.reading.selection import fits

    fitting = [fits(row) for row in rows]
    if as_json:
        typer.echo(json_array(rows))
    elif as_lines:
        for row in rows:
            typer.echo(json_line(row))
    elif table and rows:
        _table([row for row, sound in zip(rows, fitting, strict=True) if sound])
        for row, sound in zip(rows, fitting, strict=True):
            if not sound:
                typer.echo(one_line(row, fits=False))
    else:
        for row, sound in zip(rows, fitting, strict=True):
            typer.echo(one_line(row, fits=sound))
    return fitting.count(False)


def _table(rows: Sequence[dict[str, Any]]) -> None:
    print_table(
        _HEADINGS,
        (
            (
                row["t"],
                row["req"],
                str(row["row"]),
                row["mode"],
                "\n".join(comparison(reading) for reading in row["readings"]) or "-",
                outcome(row),
                "\n".join((row["cause"], *row["rules"])),
                "\n".join(dose(given) for given in row["doses"]) or "-",
            )
            for row in rows
        ),
    )
