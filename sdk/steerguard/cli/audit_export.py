"""`steerguard audit export`: verified records as lines, CloudEvents or rows for a spreadsheet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steerguard.cli.audit_answer import USAGE, refuse, require_logs
from steerguard.cli.audit_options import LogPath, PinnedCheckpoints, PinnedKeys, pins_of
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
    selection,
)
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.reading.export import ExportReport
    from steerguard.audit.reading.selection import Selection
    from steerguard.audit.verification.pins import Pins

Form = Annotated[
    Literal["jsonl", "cloudevents", "csv"],
    typer.Option(
        "--format",
        help="`jsonl`: the lines as they stand in the log. `cloudevents`: CloudEvents 1.0, one per line. "
        "`csv`: decisions, one per row.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="A file, written whole or not at all; otherwise the standard output.", show_default=False),
]


def export(
    path: LogPath,
    *,
    form: Form,
    out: Out = None,
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
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
) -> None:
    """Write records that verify as lines, CloudEvents or rows for a spreadsheet.

    Exit status: 0 all verify, 1 a log is broken, 2 nothing was exported. Of a broken log what verified is exported, and the break is named on the error stream.
    """
    with reported(USAGE):
        from steerguard.audit.reading.export import CSV_TYPE
        from steerguard.audit.reading.selection import event_types

        named = event_types(types) if types else None
        if form == "csv" and named is not None and CSV_TYPE not in named:
            refuse(f"Rows of a spreadsheet are made of {CSV_TYPE} only.")
        if form == "jsonl" and out is None and sys.stdout.isatty():
            refuse(
                "The lines of a log may hold anything, so they are not put on a terminal: give --out, or use a pipe."
            )
        chosen = selection(
            request=request,
            types=named,
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
        report = _export(path, out, form, chosen, pins_of(keys, checkpoints))
    where = "" if out is None else f" to {out}"
    say(f"exported{where}: {report.records} records", err=True)
    raise typer.Exit(exit_code(report.verification, misfits=report.misfits))


def _export(
    path: Path, out: Path | None, form: Literal["jsonl", "cloudevents", "csv"], chosen: Selection, pins: Pins
) -> ExportReport:
    from steerguard.audit.reading import export as exports
    from steerguard.audit.reading.whole_file import whole_file
    from steerguard.errors import AuditError

    if out is not None:
        with whole_file(out) as file:
            return _required(exports.export(path, file, form, chosen, pins), path)
    stream = typer.get_binary_stream("stdout")
    try:
        report = _required(exports.export(path, stream, form, chosen, pins), path)
        stream.flush()
    except AuditError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            # Whoever read it has had enough.
            raise error.__cause__ from None
        raise
    return report


def _required(report: ExportReport, path: Path) -> ExportReport:
    """Leave with exit code 2 where there is no log; a file that is being written is then given up."""
    require_logs(report.verification, path)
    return report
