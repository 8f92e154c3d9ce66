"""`steerguard policy`: validate, show and describe policy documents. Imports no torch."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from steerguard.errors import SteerguardError
from steerguard.policy.load import load_policy

app = typer.Typer(name="policy", help="Validate and show policy documents.", no_args_is_help=True)

_Sources = Annotated[list[str], typer.Argument(metavar="FILE...", help="Files, or names of shipped policies.")]
_Source = Annotated[str, typer.Argument(metavar="NAME|FILE", help="Name of a shipped policy, or a file.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the effective document as JSON.")]


@app.command()
def validate(sources: _Sources) -> None:
    """Check documents; exit with 1 if one is wrong."""
    failed = False
    for source in sources:
        try:
            policy = load_policy(source)
        except SteerguardError as error:
            failed = True
            typer.echo(f"{source}: {error.code}: {error}", err=True)
        else:
            typer.echo(f"{source}: ok: {policy.metadata.name} {policy.metadata.version} {policy.digest}")
    if failed:
        raise typer.Exit(1)


@app.command()
def show(source: _Source, *, as_json: _Json = False) -> None:
    """Print the effective document, defaults included, and what it does in plain words."""
    try:
        policy = load_policy(source)
    except SteerguardError as error:
        typer.echo(f"{source}: {error.code}: {error}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps(policy.document(), indent=2, ensure_ascii=False))
        return
    # These take time to import, and `validate` must stay quick.
    import yaml
    from rich.console import Console
    from rich.markup import escape

    from steerguard.policy.describe import describe

    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{escape(policy.metadata.name)}[/bold] {escape(policy.metadata.version)}  {policy.digest}\n")
    for sentence in describe(policy):
        console.print(f"- {escape(sentence)}")
    console.print("\n[bold]Effective document[/bold]\n")
    console.print(escape(yaml.safe_dump(policy.document(), sort_keys=False, allow_unicode=True, width=120)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of policy documents."""
    from steerguard.policy.json_schema import render

    typer.echo(render(), nl=False)
