"""`steerguard audit prove`: records with proofs that somebody else can check with Python alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerguard.cli.audit_options import USAGE, LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.reporting import reported


def prove(
    path: LogPath,
    *,
    request: Annotated[
        str | None,
        typer.Option(help="Every record of this request: the guard's id, or the host's.", show_default=False),
    ] = None,
    log: Annotated[str | None, typer.Option(help="With --seq: the id of the log.", show_default=False)] = None,
    seq: Annotated[
        int | None, typer.Option(min=0, help="With --log: the number of the record, from 0.", show_default=False)
    ] = None,
    key: PinnedKeys = None,
    checkpoint: PinnedCheckpoints = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the proofs; standard output without it.", show_default=False)
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            help="Also write the script that checks proofs with Python alone to this file.", show_default=False
        ),
    ] = None,
) -> None:
    """Prove that records stand unaltered in a log that was signed: record, path to the checkpoint, checkpoint.

    Whoever gets the proofs checks them with `python verify_proof.py FILE --key KEY`, and gets the key from its owner. With
    --key only a checkpoint that one of these keys signed counts. Exit status: 0 proven, 1 not, with the reason.
    """
    if (request is None) == (log is None) or (log is None) != (seq is None):
        typer.echo("Give either --request, or both --log and --seq.", err=True)
        raise typer.Exit(USAGE)
    from steerguard.audit.proving.proof import proof_document, script_content
    from steerguard.audit.proving.prove import prove_record, prove_request

    with reported():
        pins = pins_of(key, checkpoint)
        if request is not None:
            proved = prove_request(path, request, pins)
        else:
            assert log is not None
            assert seq is not None
            proved = prove_record(path, log, seq, pins)
        for warning in proved.warnings:
            typer.echo(f"warning: {warning}", err=True)
        document = proof_document(proved.proofs)
        if script is not None:
            _write(script, script_content())
        if out is None:
            typer.echo(document, nl=False)
        else:
            _write(out, document.encode("utf-8"))
    if out is not None:
        keys = sorted({proof.key for proof in proved.proofs})
        typer.echo(f"{len(proved.proofs)} records proven in {out}, under {', '.join(keys)}")


def _write(path: Path, content: bytes) -> None:
    from steerguard.errors import AuditError

    try:
        path.write_bytes(content)
    except OSError as error:
        raise AuditError(
            "The file cannot be written.",
            where=path,
            found=error.strerror,
            next_step="Give a path that can be written.",
        ) from error
