"""`steerguard registry pull`: bring artifacts to this machine, and into a local registry for machines without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.artifacts.reference import parse_reference
from steerguard.cli.registry_source import (
    EndpointOption,
    JsonOption,
    RegistryAccess,
    RegistryOption,
    TrustOption,
    admitted,
)
from steerguard.cli.reporting import reported
from steerguard.registry.local import LocalDirectory, open_registry
from steerguard.registry.resolve import admitted_entries

if TYPE_CHECKING:
    from steerguard.registry.index import IndexEntry
    from steerguard.registry.store import ArtifactStore


def pull(
    reference: Annotated[str, typer.Argument(help="[hf://ORGANISATION/]FAMILY[/VARIANT][@RANGE].")],
    *,
    registry: RegistryOption = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Local registry to copy it into, attestations included."),
    ] = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download the highest version of every variant that a reference admits; with --to copy it into a local registry.

    What comes from the Hub is judged by the trust policy first. Every byte is hashed and every tensor verified.
    """
    from steerguard.artifacts.verify import verify_artifact

    with reported():
        access = RegistryAccess.of(trust, endpoint)
        parsed = parse_reference(reference)
        store = access.store_of(parsed, registry)
        entries = _highest(admitted_entries(store, parsed))
        judge = access.judge()
        target = None if to is None else open_registry(to)
        done = []
        for entry in entries:
            admitted(judge, store, entry)
            pin = store.pin(entry)
            verify_artifact(store.read(pin), entry.digest, where=entry.reference)
            if target is not None:
                copy_into(target, store, entry, access)
            done.append({"reference": entry.reference, "digest": entry.digest, "registry": store.name})
        if as_json:
            typer.echo(json.dumps(done, indent=2, sort_keys=True))
            return
        for one in done:
            typer.echo(f"pulled   {one['reference']} {one['digest']}" + ("" if to is None else f" into {to}"))


def copy_into(target: LocalDirectory, store: ArtifactStore, entry: IndexEntry, access: RegistryAccess) -> None:
    """Copy one verified artifact into a local registry; attestations that it lacks are added to an artifact that is there.

    Raises:
        ArtifactIntegrityError: the version is there with another digest, or the folder changed meanwhile.
        ArtifactError: the operating system refuses.
    """
    from steerguard.hub.registry import HubRegistry

    if isinstance(store, HubRegistry):
        folder = access.pulled().folder(entry.digest)
    else:
        assert isinstance(store, LocalDirectory)
        folder = store.root / entry.family / entry.variant / entry.version
    # The folder is read again: it must still hold what was judged and verified.
    target.add(folder, digest=entry.digest)
    held = target.attestations(entry)
    for path, content in store.attestations(entry).items():
        if held.get(path) != content:
            target.attest(entry, path, content)


def _highest(entries: tuple[IndexEntry, ...]) -> list[IndexEntry]:
    """Return the first entry of every variant."""
    first: dict[str, IndexEntry] = {}
    for entry in entries:
        first.setdefault(entry.variant, entry)
    return list(first.values())
