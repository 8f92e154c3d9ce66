"""`steerguard registry`: list, show and verify the artifacts of a registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from steerguard.artifacts.manifest import manifest_bytes, manifest_digest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.reference import parse_reference
from steerguard.errors import ArtifactNotFoundError, SteerguardError
from steerguard.registry.folder import read_folder
from steerguard.registry.index import INDEX
from steerguard.registry.local import LocalDirectory, embedded_registry
from steerguard.registry.resolve import pinned_variants

app = typer.Typer(name="registry", help="List, show and verify artifacts.", no_args_is_help=True)

_Registry = Annotated[
    Path | None, typer.Option("--registry", help="Folder of a local registry; the embedded one without it.")
]


@app.command("list")
def list_artifacts(registry: _Registry = None) -> None:
    """List every artifact with its type, base model and digest."""
    with _reported():
        store = _store(registry)
        table = Table("artifact", "type", "base model", "weights", "digest")
        for family in store.families():
            for pin in store.pinned(family):
                weights = ", ".join(entry.weights for entry in pin.manifest.fingerprints)
                table.add_row(pin.reference, pin.manifest.type, pin.manifest.base.repo, weights, pin.digest[:19])
        if table.row_count == 0:
            Console().print(f"No artifacts in {store.root}.", markup=False, soft_wrap=True)
            return
        Console().print(table)


@app.command("show")
def show(
    reference: Annotated[str, typer.Argument(help="FAMILY[/VARIANT][@RANGE], for example inferaligner@^1.")],
    registry: _Registry = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifests as a JSON list.")] = False,
) -> None:
    """Show the manifests that a reference admits, highest version first."""
    with _reported():
        pins = pinned_variants(_store(registry), parse_reference(reference))
        if as_json:
            manifests = [{"digest": pin.digest, "manifest": json.loads(manifest_bytes(pin.manifest))} for pin in pins]
            typer.echo(json.dumps(manifests, indent=2, sort_keys=True))
            return
        for pin in pins:
            manifest, base = pin.manifest, pin.manifest.base
            table = Table("field", "value", title=pin.reference, title_justify="left", show_header=False)
            rows = {
                "digest": pin.digest,
                "type": manifest.type,
                "method": f"{manifest.method} (version {manifest.method_version})",
                "requires": f"sdk {manifest.requires.sdk}; {', '.join(manifest.requires.features)}",
                "base model": f"{base.repo}, {base.decoder}, {base.num_blocks} blocks of width {base.hidden_size}",
                "base weights": base.source,
                "fingerprints": ", ".join(
                    f"{one.weights} (blocks {list(one.blocks)})" for one in manifest.fingerprints
                ),
                "params": json.dumps(manifest.params, sort_keys=True),
                "files": "\n".join(f"{one.path} ({one.size} bytes)" for one in manifest.files),
                "license": manifest.license,
                "created": manifest.created,
            }
            for name, value in rows.items():
                table.add_row(name, value)
            Console().print(table)


@app.command("verify")
def verify(
    path: Annotated[
        str, typer.Argument(help="Folder of a registry or of one artifact; `all` is the embedded registry.")
    ] = "all",
) -> None:
    """Verify every byte and tensor of a registry's artifacts; exit code 1 when any is refused."""
    from steerguard.artifacts.verify import verify_artifact

    with _reported():
        if path != "all" and not (Path(path) / INDEX).is_file() and (Path(path) / MANIFEST).is_file():
            files = read_folder(Path(path))
            digest = manifest_digest(files[MANIFEST])
            artifact = verify_artifact(files, digest, where=path)
            typer.echo(f"ok       {artifact.manifest.reference} {digest} (no index pins this digest)")
            return
        store = _store(None if path == "all" else Path(path))
        entries = store.entries()
        refused = 0
        for entry in entries:
            try:
                verify_artifact(store.read(store.pin(entry)), entry.digest, where=entry.reference)
            except SteerguardError as error:
                refused += 1
                typer.echo(f"refused  {entry.reference} {entry.digest}\n{error.code}: {error}")
            else:
                typer.echo(f"ok       {entry.reference} {entry.digest}")
    typer.echo(f"{len(entries) - refused} of {len(entries)} artifacts verified in {store.root}.")
    if refused:
        raise typer.Exit(1)


def _store(registry: Path | None) -> LocalDirectory:
    if registry is None:
        return embedded_registry()
    if not registry.is_dir():
        raise ArtifactNotFoundError("There is no such registry.", where=registry, next_step="Name a folder.")
    return LocalDirectory(registry)


@contextmanager
def _reported() -> Iterator[None]:
    """Print an error of this package and leave with exit code 1, without a traceback."""
    try:
        yield
    except SteerguardError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        raise typer.Exit(1) from error
