"""`steerguard audit`: check logs and show decisions."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from steerguard.audit.verify import VerificationReport

OK, BROKEN, USAGE = 0, 1, 2

app = typer.Typer(name="audit", help="Check audit logs and show what was decided.", no_args_is_help=True)

LogPath = Annotated[Path, typer.Argument(help="A log file, or a directory of logs.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.command()
def verify(path: LogPath, *, as_json: AsJson = False) -> None:
    """Check every line of every log. Exit status: 0 all verify, 1 a log is broken, 2 there is nothing to check."""
    reports = [report for report, _ in _verified(path, keep=0, request=None)]
    if as_json:
        documents = [{"status": report.status, **asdict(report), **_reason(report)} for report in reports]
        typer.echo(json.dumps(documents, indent=2))
    else:
        console = _console()
        for report in reports:
            _describe(console, report)
    raise typer.Exit(BROKEN if any(report.status == "broken" for report in reports) else OK)


@app.command()
def show(
    path: LogPath,
    *,
    request: Annotated[str | None, typer.Option(help="Only the rows of this request.", show_default=False)] = None,
    last: Annotated[int, typer.Option(min=1, help="At most so many rows, the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show decisions, oldest first; only records that verify. Exit status as for `verify`.

    The last record of a log without log.close is shown with a warning: no later record confirms it.
    """
    results = _verified(path, keep=last, request=request)
    rows = sorted((row for _, found in results for row in found), key=lambda row: (row["t"], row["log"], row["seq"]))
    rows = rows[-last:]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        _table(_console(), rows)
    shown = {(row["log"], row["seq"]) for row in rows}
    broken = [report for report, _ in results if report.status == "broken"]
    for report, _ in results:
        if report.status == "broken":
            _describe(_console(stderr=True), report)
        elif (report.log, report.unconfirmed) in shown:
            typer.echo(
                f"{report.log}: warning: record {report.unconfirmed} is the last one and is not confirmed by a "
                f"following one; its hash is {report.head}",
                err=True,
            )
    raise typer.Exit(BROKEN if broken else OK)


def _verified(path: Path, *, keep: int, request: str | None) -> list[tuple[VerificationReport, deque[dict[str, Any]]]]:
    """Verify the logs under the path and keep the newest decisions of each."""
    from steerguard.audit.chain import LOG_SUFFIX
    from steerguard.audit.verify import verify_log
    from steerguard.errors import AuditVerificationError

    results = []
    try:
        logs = sorted(path.glob(f"*{LOG_SUFFIX}")) if path.is_dir() else [path]
        for log in logs:
            decisions: deque[dict[str, Any]] = deque(maxlen=keep)

            def keep_decision(record: dict[str, Any], into: deque[dict[str, Any]] = decisions) -> None:
                if record["type"] == "guard.decision" and request in {None, record["req"]}:
                    into.append(record)

            results.append((verify_log(log, on_record=keep_decision), decisions))
    except AuditVerificationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USAGE) from error
    if not results:
        typer.echo(f"There is no audit log in {path}.", err=True)
        raise typer.Exit(USAGE)
    return results


def _reason(report: VerificationReport) -> dict[str, str | None]:
    return {"reason": None if report.first_bad is None else report.first_bad.reason}


def _describe(console: Console, report: VerificationReport) -> None:
    console.print(f"{report.log}: {report.status}, {report.records} records verified")
    if report.first_bad is not None:
        bad = report.first_bad
        console.print(f"  line {bad.line} (record {bad.seq}), {bad.fault}: {bad.reason}")
    if report.torn_bytes:
        console.print(f"  {report.torn_bytes} bytes after the last newline")
    for warning in report.warnings:
        console.print(f"  warning: {warning}")


def _table(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("time", "request", "row", "mode", "score vs threshold", "intended → applied", "doses")
    for row in rows:
        cells = (
            row["t"],
            row["req"],
            str(row["row"]),
            row["mode"],
            "\n".join(_comparison(reading) for reading in row["readings"]) or "-",
            f"{row['intended']} → {row['applied']}",
            "\n".join(_dose(dose) for dose in row["doses"]) or "-",
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _comparison(reading: dict[str, Any]) -> str:
    score = "not finite" if reading["score"] is None else f"{float(reading['score']):.4g}"
    bounds = [
        f"{'≥' if bound['bound'] == 'at_least' else '<'} {float(bound['value']):.4g} ({bound['rule']})"
        for bound in reading["thresholds"]
    ]
    # Records from before the score tolerance do not say.
    near = ", within the tolerance" if reading.get("near") else ""
    return f"{reading['source']} {score}" + (f" vs {', '.join(bounds)}" if bounds else "") + near


def _dose(dose: dict[str, Any]) -> str:
    return (
        f"{dose['step']} x{dose['coefficient']}, {len(dose['open_blocks'])} blocks, "
        f"{dose['positions']}/{dose['expected_positions']} positions"
    )


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, markup=False, highlight=False, soft_wrap=False)
