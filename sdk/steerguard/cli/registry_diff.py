"""`steerguard registry diff`: what changed between two versions, in plain words."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST
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
from steerguard.errors import ArtifactReferenceError
from steerguard.registry.folder import read_folder
from steerguard.registry.resolve import admitted_entries

if TYPE_CHECKING:
    from collections.abc import Mapping

_Side = Annotated[str, typer.Argument(help="Reference, for example inferaligner@1.0.0, or folder of an artifact.")]


def diff(
    a: _Side,
    b: _Side,
    *,
    registry: RegistryOption = None,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what changed from A to B: cosine per block, norms, thresholds, settings, benchmarks, files, signers.

    Both are verified first; a reference stands for the highest version that it admits.
    """
    from steerguard.artifacts.compare import compared, differences
    from steerguard.artifacts.compare import diff as plain_words

    with reported():
        access = RegistryAccess.of(trust, endpoint)
        first, second = (
            compared(files, digest, where=name)
            for name, digest, files in (artifact_at(side, access, registry) for side in (a, b))
        )
        if as_json:
            found = {
                "a": {"reference": first.artifact.manifest.reference, "digest": first.artifact.digest},
                "b": {"reference": second.artifact.manifest.reference, "digest": second.artifact.digest},
                "differences": [asdict(difference) for difference in differences(first, second)],
            }
            typer.echo(json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False))
            return
        typer.echo(f"{first.artifact.manifest.reference} → {second.artifact.manifest.reference}")
        for line in plain_words(first, second):
            typer.echo(f"  {line}")


def artifact_at(named: str, access: RegistryAccess, registry: str | None) -> tuple[str, str, Mapping[str, bytes]]:
    """Return name, digest and unverified files of an artifact that is named by its folder or by a reference.

    Raises:
        ArtifactReferenceError: the reference admits several variants.
        SteerguardError: it cannot be found or read, or the trust policy refuses it.
    """
    if (Path(named) / MANIFEST).is_file():
        files = read_folder(Path(named))
        return named, manifest_digest(files[MANIFEST]), files
    reference = parse_reference(named)
    store = access.store_of(reference, registry)
    entries = admitted_entries(store, reference)
    variants = sorted({entry.variant for entry in entries})
    if len(variants) > 1:
        raise ArtifactReferenceError(
            "The reference stands for several variants.",
            where=named,
            expected=f"one of {', '.join(f'{reference.family}/{variant}' for variant in variants)}",
            next_step="Name the variant.",
        )
    admitted(access.judge(), store, entries[0])
    return entries[0].reference, entries[0].digest, store.read(store.pin(entries[0]))
