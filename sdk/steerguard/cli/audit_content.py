"""`steerguard audit content`: decrypt the content of one request."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from steerguard.cli.audit_options import BROKEN, USAGE
from steerguard.cli.reporting import reported


def content(
    directory: Annotated[Path, typer.Argument(help="The directory of the logs.", show_default=False)],
    *,
    request: Annotated[str, typer.Option(help="Id of the request: `req` of its records.", show_default=False)],
    sealing_key: Annotated[
        Path | None,
        typer.Option(
            help="File of the sealing key; by default the variable STEERGUARD_AUDIT_SEALING_KEY.", show_default=False
        ),
    ] = None,
) -> None:
    """Print the encrypted content of a request as JSON, in plain text: mind where it goes.

    Exit status: 0 all rows were read; 1 one could not be, and its `error` says why, or a log is broken; 2 there is none.
    """
    from steerguard.audit.privacy.sealing import SealingKey, required_sealing_key
    from steerguard.audit.upkeep.unsealing import unsealed_rows

    with reported():
        key = required_sealing_key(None if sealing_key is None else SealingKey.from_file(sealing_key))
        rows = unsealed_rows(directory, request, key)
    if not rows:
        typer.echo(f"Request {request} has no encrypted content in {directory}.", err=True)
        raise typer.Exit(USAGE)
    typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    if any(row.error is not None for row in rows):
        raise typer.Exit(BROKEN)
