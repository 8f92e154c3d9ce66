"""`steerguard audit prune` and `steerguard audit hold`: how long logs are kept, and what stops their deletion."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.audit_options import AsJson
from steerguard.cli.reporting import reported

if TYPE_CHECKING:
    from steerguard.audit.upkeep.hold import Hold
    from steerguard.audit.upkeep.retention import Pruning

Directory = Annotated[Path, typer.Argument(help="The directory of the logs.", show_default=False)]


def prune(
    directory: Directory,
    *,
    older_than: Annotated[int, typer.Option(metavar="DAYS", help="Age of a segment's last record.")] = 400,
    allow_short: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why fewer than 183 days are allowed; it is recorded.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete whole segments whose time is over; records say what was deleted, so that the rest verifies.

    Nothing is deleted under a legal hold, and nothing of a log that does not verify.
    """
    from steerguard.audit.upkeep.retention import prune as prune_logs

    with reported():
        pruning = prune_logs(directory, older_than_days=older_than, allow_short=allow_short, dry_run=dry_run)
    if as_json:
        typer.echo(json.dumps({**asdict(pruning), "directory": str(directory)}, indent=2))
    else:
        _print_pruning(pruning)


def hold(
    directory: Directory,
    *,
    reason: Annotated[str | None, typer.Option(help="Why; it is recorded.", show_default=False)] = None,
    release: Annotated[bool, typer.Option("--release", help="Lift the hold.")] = False,
    as_json: AsJson = False,
) -> None:
    """Place a legal hold on a directory, lift it with --release, or without a reason show whether one is in force.

    While it is in force nothing is pruned and nothing erased.
    """
    from steerguard.audit.upkeep.hold import hold_in_force, place_hold, release_hold

    if release and reason is None:
        raise typer.BadParameter("Say why the hold is lifted: --release --reason TEXT.")
    with reported():
        if reason is None:
            found = hold_in_force(directory)
        elif release:
            release_hold(directory, reason=reason)
            found = None
        else:
            found = place_hold(directory, reason=reason)
    if as_json:
        typer.echo(json.dumps({"hold": None if found is None else found.model_dump()}, indent=2))
    else:
        typer.echo(_hold_line(found))


def _print_pruning(pruning: Pruning) -> None:
    deleted = "would be deleted" if pruning.dry_run else "deleted"
    for name in pruning.finished:
        typer.echo(f"{name}: {deleted}, as an earlier pruning recorded")
    for one in pruning.segments:
        last = ", the last of its log" if one.whole else ""
        typer.echo(
            f"{one.log} segment {one.segment}: {one.records} records, {one.first_t} to {one.last_t}, {deleted}{last}"
        )
    for log, why in pruning.kept:
        typer.echo(f"{log}: kept, {why}")
    if not pruning.segments and not pruning.finished:
        typer.echo(f"No segment ends before {pruning.cutoff}.")


def _hold_line(hold: Hold | None) -> str:
    if hold is None:
        return "No legal hold is in force."
    return f"A legal hold is in force since {hold.since}: {hold.reason}"
