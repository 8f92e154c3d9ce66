"""`steerguard registry list` and `search`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from steerguard.cli.registry_rows import ArtifactRow, artifact_rows, matching
from steerguard.cli.registry_source import EndpointOption, JsonOption, RegistryAccess, RegistryOption, TrustOption
from steerguard.cli.reporting import reported


def list_artifacts(
    registry: RegistryOption = None,
    *,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every artifact with its type, base model and digest."""
    with reported():
        store = RegistryAccess.of(trust, endpoint).store(registry)
        _print(tuple(artifact_rows(store)), as_json=as_json, none=f"No artifacts in {store.name}.")


def search(
    words: Annotated[list[str] | None, typer.Argument(help="Words of the name, the type or the base model.")] = None,
    *,
    registry: RegistryOption = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only this type, for example probe.")] = None,
    base_model: Annotated[str | None, typer.Option("--base-model", help="Only for base models of this name.")] = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the artifacts in which every word occurs; exit code 1 when there is none."""
    with reported():
        store = RegistryAccess.of(trust, endpoint).store(registry)
        found = matching(artifact_rows(store), words or (), type_=type_, base_model=base_model)
        _print(found, as_json=as_json, none=f"Nothing in {store.name} matches.")
    if not found:
        raise typer.Exit(1)


def _print(rows: Sequence[ArtifactRow], *, as_json: bool, none: str) -> None:
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows], indent=2, sort_keys=True))
        return
    if not rows:
        Console().print(none, markup=False, soft_wrap=True)
        return
    # One line each and nothing cut, for people and pipes; `show` says the rest.
    columns = [(row.reference, row.type, row.base_model, (row.commit or "")[:12], row.digest) for row in rows]
    widths = [max(len(line[at]) for line in columns) for at in range(len(columns[0]))]
    for line in columns:
        fields = (text.ljust(width) for text, width in zip(line, widths, strict=True) if width)
        typer.echo("  ".join(fields).rstrip())
