"""`steerguard keys`: make signing keys, and show the public key that others put into their trust policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.registry_source import JsonOption, signing_key
from steerguard.cli.reporting import reported

if TYPE_CHECKING:
    from steerguard.signing.keys import PublicKey

app = typer.Typer(name="keys", help="Make signing keys and show their public keys.", no_args_is_help=True)


@app.command("new")
def new(
    path: Annotated[Path, typer.Argument(help="File for the new key; must not exist. Only its owner can read it.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Make a new Ed25519 key in a file and print its public key."""
    from steerguard.signing.keys import SigningKey

    with reported():
        _print(SigningKey.create(path).public, as_json=as_json)


@app.command("show")
def show(
    path: Annotated[
        Path | None, typer.Argument(help="File of the signing key; STEERGUARD_SIGNING_KEY without it.")
    ] = None,
    *,
    as_json: JsonOption = False,
) -> None:
    """Print the public key of a signing key, never the key itself."""
    with reported():
        _print(signing_key(path).public, as_json=as_json)


def _print(key: PublicKey, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"id": key.id, "key": key.text}, indent=2, sort_keys=True))
    else:
        typer.echo(f"id   {key.id}\nkey  {key.text}")
