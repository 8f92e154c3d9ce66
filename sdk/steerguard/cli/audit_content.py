"""`steerguard audit content`: decrypt the content of one request."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from steerguard.cli.audit_answer import BROKEN, print_document, refuse
from steerguard.cli.audit_options import LogDirectory, RequestId
from steerguard.cli.reporting import reported


def content(
    directory: LogDirectory,
    *,
    request: RequestId,
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
    from steerguard.audit.privacy.sealing import SEALING_VARIABLE, SealingKey
    from steerguard.audit.upkeep.unsealing import unsealed_rows

    with reported():
        key = SealingKey.from_environment() if sealing_key is None else SealingKey.from_file(sealing_key)
        if key is None:
            refuse(f"Give the key that the content was encrypted with: --sealing-key FILE, or {SEALING_VARIABLE}.")
        rows = unsealed_rows(directory, request, key)
    if not rows:
        refuse(f"Request {request} has no encrypted content in {directory}.")
    print_document({"request": request, "rows": [asdict(row) for row in rows]})
    if any(row.error is not None for row in rows):
        raise typer.Exit(BROKEN)
