"""`steerguard audit prune` and `steerguard audit hold`: how long logs are kept, and what stops their deletion."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.audit_answer import print_document
from steerguard.cli.audit_options import (
    AsJson,
    CheckpointCopies,
    LogDirectory,
    SigningKeyFile,
    SigningKeyName,
)
from steerguard.cli.audit_signing import signing_of
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.upkeep.hold import Hold
    from steerguard.audit.upkeep.retention import Pruning


def prune(
    directory: LogDirectory,
    *,
    older_than: Annotated[int, typer.Option(metavar="DAYS", help="Age of a segment's newest record.")] = 400,
    allow_short: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Why fewer than 183 days are allowed; it is recorded.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    signing_key: SigningKeyFile = None,
    key_name: SigningKeyName = None,
    copies: CheckpointCopies = None,
    as_json: AsJson = False,
) -> None:
    """Delete whole segments whose time is over; records say what was deleted, so that the rest verifies.

    Nothing is deleted under a legal hold, and nothing of a log that does not verify.
    """
    from steerguard.audit.settings import CheckpointSettings
    from steerguard.audit.upkeep.retention import prune as prune_logs

    with reported():
        pruning = prune_logs(
            directory,
            older_than_days=older_than,
            allow_short=allow_short,
            dry_run=dry_run,
            checkpoints=CheckpointSettings() if dry_run else signing_of(directory, signing_key, key_name, copies),
        )
    if as_json:
        print_document({**asdict(pruning), "directory": str(directory)})
    else:
        _print_pruning(pruning)


def hold(
    directory: LogDirectory,
    *,
    reason: Annotated[str | None, typer.Option(help="Why; it is recorded.", show_default=False)] = None,
    release: Annotated[bool, typer.Option("--release", help="Lift the hold.")] = False,
    signing_key: SigningKeyFile = None,
    key_name: SigningKeyName = None,
    copies: CheckpointCopies = None,
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
        else:
            checkpoints = signing_of(directory, signing_key, key_name, copies)
            if release:
                release_hold(directory, reason=reason, checkpoints=checkpoints)
                found = None
            else:
                found = place_hold(directory, reason=reason, checkpoints=checkpoints)
    if as_json:
        print_document({"hold": None if found is None else found.model_dump()})
    else:
        say(_hold_line(found))


def _print_pruning(pruning: Pruning) -> None:
    deleted = "would be deleted" if pruning.dry_run else "deleted"
    for name in pruning.finished:
        say(f"{name}: {deleted}, as an earlier pruning recorded")
    for one in pruning.segments:
        last = ", the last of its log" if one.whole else ""
        say(f"{one.log} segment {one.segment}: {one.records} records, {one.first_t} to {one.last_t}, {deleted}{last}")
    for log, why in pruning.kept:
        say(f"{log}: kept, {why}")
    if not pruning.segments and not pruning.finished:
        say(f"No segment ends before {pruning.cutoff}.")


def _hold_line(hold: Hold | None) -> str:
    if hold is None:
        return "No legal hold is in force."
    return f"A legal hold is in force since {hold.since}: {hold.reason}"
