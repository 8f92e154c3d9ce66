"""`steerguard audit erase`: make the encrypted content of one request unreadable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from steerguard.cli.audit_options import AsJson
from steerguard.cli.reporting import reported


def erase(
    directory: Annotated[Path, typer.Argument(help="The directory of the logs.", show_default=False)],
    *,
    request: Annotated[str, typer.Option(help="Id of the request: `req` of its records.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Destroy the keys of a request's encrypted content, in logs that are in use too. Every log stays valid.

    Keyed hashes of content are not touched: destroying the key for hashing content cuts their link.
    A backup, a snapshot or a flash device may still hold the keys. Exit status 1 when it failed or was not confirmed.
    """
    from steerguard.audit.upkeep.erase import erase_request, sealed_rows

    with reported():
        if not yes:
            rows = sum(found.readable for found in sealed_rows(directory, request))
            if rows:
                typer.confirm(f"Erase the content of {_rows(rows)} for good?", abort=True, err=True)
        found = erase_request(directory, request, reason=reason)
    rows, before = sum(one.readable for one in found), sum(one.erased for one in found)
    if as_json:
        logs = [{"log": one.log, "erased": one.readable, "erased_before": one.erased} for one in found]
        typer.echo(json.dumps({"request": request, "erased": rows, "erased_before": before, "logs": logs}, indent=2))
        return
    for one in found:
        if one.readable:
            typer.echo(f"{one.log}: {_rows(one.readable)} erased")
    if rows == 0:
        earlier = f": {_rows(before)} erased before" if before else " in this directory"
        typer.echo(f"Request {request} has no encrypted content left{earlier}.")


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"
