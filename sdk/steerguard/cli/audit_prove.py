"""`steerguard audit prove`: records with proofs that somebody else can check with Python alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerguard.cli.audit_answer import refuse, write_file
from steerguard.cli.audit_options import LogPath, PinnedCheckpoints, PinnedKeys, pins_of
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say


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
    out: Annotated[
        Path | None, typer.Option(help="File for the proofs; standard output without it.", show_default=False)
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            help="Also write the script that checks proofs with Python alone to this file.", show_default=False
        ),
    ] = None,
    keys: PinnedKeys = None,
    checkpoints: PinnedCheckpoints = None,
) -> None:
    """Prove that records stand unaltered in a log that was signed: record, path, checkpoint.

    Whoever gets the proofs checks them with `python verify_proof.py FILE --key KEY`, and gets the key from its owner. With
    --key only a checkpoint that one of these keys signed counts. Exit status: 0 proven, 1 not, with the reason.
    """
    if (request is None) == (log is None) or (log is None) != (seq is None):
        refuse("Give either --request, or both --log and --seq.")
    from steerguard.audit.proving.proof import proof_document, script_content
    from steerguard.audit.proving.prove import prove_record, prove_request

    with reported():
        pins = pins_of(keys, checkpoints)
        if request is not None:
            proved = prove_request(path, request, pins)
        else:
            assert log is not None
            assert seq is not None
            proved = prove_record(path, log, seq, pins)
        for warning in proved.warnings:
            say(f"warning: {warning}", err=True)
        document = proof_document(proved.proofs)
        if script is not None:
            write_file(script, script_content())
        if out is None:
            typer.echo(document, nl=False)
        else:
            write_file(out, document.encode("utf-8"))
    if out is not None:
        signers = sorted({proof.key for proof in proved.proofs})
        say(f"{len(proved.proofs)} records proven in {out}, under {', '.join(signers)}")
