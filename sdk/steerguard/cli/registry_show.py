"""`steerguard registry show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from steerguard.artifacts.manifest import ArtifactManifest, manifest_bytes
from steerguard.artifacts.reference import parse_reference
from steerguard.cli.registry_source import EndpointOption, JsonOption, RegistryAccess, RegistryOption, TrustOption
from steerguard.cli.reporting import reported
from steerguard.registry.resolve import admitted_entries
from steerguard.registry.signed_index import HubEntry

if TYPE_CHECKING:
    from steerguard.registry.index import IndexEntry
    from steerguard.registry.store import ArtifactStore, PinnedManifest


def show(
    reference: Annotated[str, typer.Argument(help="FAMILY[/VARIANT][@RANGE], for example inferaligner@^1.")],
    registry: RegistryOption = None,
    *,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the artifacts that a reference admits, highest version first.

    With --trust, or for a registry on the Hub, also who signed and vetted them, whether they are revoked, and whether the
    tag still stands at the commit that the index pins.
    """
    with reported():
        access = RegistryAccess.of(trust, endpoint)
        parsed = parse_reference(reference)
        store = access.store_of(parsed, registry)
        found = [(entry, store.pin(entry)) for entry in admitted_entries(store, parsed)]
        said = _standings(access, store, [entry for entry, _ in found])
        if as_json:
            typer.echo(json.dumps([_as_json(pin, said.get(pin.digest)) for _, pin in found], indent=2, sort_keys=True))
            return
        for _, pin in found:
            table = Table("field", "value", title=pin.reference, title_justify="left", show_header=False)
            for name, value in {**_rows(pin), **said.get(pin.digest, {})}.items():
                table.add_row(name, value)
            Console(markup=False).print(table)


def _standings(access: RegistryAccess, store: ArtifactStore, entries: list[IndexEntry]) -> dict[str, dict[str, str]]:
    """Return the rows about trust by digest; none for a local registry without a trust policy."""
    remote = any(isinstance(entry, HubEntry) for entry in entries)
    if access.trust is None and not remote:
        return {}
    from steerguard.cli.registry_standing import standing, tag_standing
    from steerguard.hub.registry import HubRegistry

    judge = access.judge()
    lists = getattr(judge, "revocations", {})
    own = store.state().revocations if isinstance(store, HubRegistry) else lists.get(store.name)
    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        found[entry.digest] = standing(store, entry, judge, own)
        if isinstance(entry, HubEntry):
            found[entry.digest] |= {
                "repository": f"{entry.repo} at {entry.commit}",
                "tag": tag_standing(access.client(), entry),
            }
    return found


def _as_json(pin: PinnedManifest, said: dict[str, str] | None) -> dict[str, Any]:
    document: dict[str, Any] = {"digest": pin.digest, "manifest": json.loads(manifest_bytes(pin.manifest))}
    return document if said is None else document | {"standing": said}


def _rows(pin: PinnedManifest) -> dict[str, str]:
    manifest: ArtifactManifest = pin.manifest
    base = manifest.base
    provenance = (manifest.model_extra or {}).get("provenance")
    return {
        "digest": pin.digest,
        "type": manifest.type,
        "method": f"{manifest.method} (version {manifest.method_version})",
        "requires": f"sdk {manifest.requires.sdk}; {', '.join(manifest.requires.features)}",
        "base model": f"{base.repo}, {base.decoder}, {base.num_blocks} blocks of width {base.hidden_size}",
        "base weights": base.source,
        "fingerprints": ", ".join(f"{one.weights} (blocks {list(one.blocks)})" for one in manifest.fingerprints),
        "params": json.dumps(manifest.params, sort_keys=True),
        **({} if provenance is None else {"provenance": json.dumps(provenance, sort_keys=True)}),
        "files": "\n".join(f"{one.path} ({one.size} bytes)" for one in manifest.files),
        "license": manifest.license,
        "created": manifest.created,
    }
