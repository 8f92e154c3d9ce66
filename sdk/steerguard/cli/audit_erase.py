"""`steerguard audit erase`: make the encrypted content of one request unreadable."""

from __future__ import annotations

from typing import Annotated

import typer

from steerguard.cli.audit_answer import print_document, refuse
from steerguard.cli.audit_options import (
    AsJson,
    CheckpointCopies,
    LogDirectory,
    RequestId,
    SigningKeyFile,
    SigningKeyName,
)
from steerguard.cli.audit_signing import signing_of
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say


def erase(
    directory: LogDirectory,
    *,
    request: RequestId,
    reason: Annotated[str, typer.Option(help="Why; it is recorded.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    signing_key: SigningKeyFile = None,
    key_name: SigningKeyName = None,
    copies: CheckpointCopies = None,
    as_json: AsJson = False,
) -> None:
    """Destroy the keys of a request's encrypted content, in logs that are in use too. Every log stays valid.

    Keyed hashes of content are not touched: destroying the key for hashing content cuts their link.
    A backup, a snapshot or a flash device may still hold the keys.

    Exit status: 0 there was content, and it is erased now or was before; 1 it failed or was not confirmed; 2 there is none.
    """
    from steerguard.audit.upkeep.erase import erase_request, sealed_rows

    with reported():
        checkpoints = signing_of(directory, signing_key, key_name, copies)
        if not yes:
            rows = sum(found.readable for found in sealed_rows(directory, request))
            if rows:
                typer.confirm(f"Erase the content of {_rows(rows)} for good?", abort=True, err=True)
        found = erase_request(directory, request, reason=reason, checkpoints=checkpoints)
    rows, before = sum(one.readable for one in found), sum(one.erased for one in found)
    if as_json:
        logs = [{"log": one.log, "erased": one.readable, "erased_before": one.erased} for one in found]
        print_document({"request": request, "erased": rows, "erased_before": before, "logs": logs})
    if not rows and not before:
        refuse(
            f"There is no encrypted content of request {request} in this directory; that of pruned segments is gone. "
            "Give the guard's id, `req`; `steerguard audit query PATH --request ID` shows it for an id of the host."
        )
    if as_json:
        return
    for one in found:
        if one.readable:
            typer.echo(f"{one.log}: {_rows(one.readable)} erased")
    if rows == 0 and before:
        say(f"Request {request} has no encrypted content left: {_rows(before)} erased before.")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
