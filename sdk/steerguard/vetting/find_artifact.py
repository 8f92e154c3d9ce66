"""The artifact that a command names: a folder, or a reference into a registry on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steerguard.artifacts.integrity import pinned_manifest
from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST
from steerguard.artifacts.reference import parse_reference
from steerguard.errors import ArtifactReferenceError
from steerguard.registry.folder import read_folder
from steerguard.registry.local import LocalDirectory, embedded_registry
from steerguard.registry.names import EMBEDDED
from steerguard.registry.resolve import admitted_entries, store_for
from steerguard.vetting.overlay import VettedArtifact


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundArtifact:
    """An artifact with the place that it lies in."""

    artifact: VettedArtifact
    folder: Path | None
    """Where its statements belong; None in the embedded registry, which nothing is written into."""


def find_artifact(named: str, registry: LocalDirectory | None) -> FoundArtifact:
    """Return the files of an artifact; nothing but the manifest is judged.

    Args:
        named: folder of an artifact, or a reference to one artifact.
        registry: where references point that name no registry; None is the embedded one.

    Raises:
        ArtifactReferenceError: the reference is malformed, points to the Hub, or admits several variants.
        ArtifactError: there is no such artifact, or its manifest is malformed.
    """
    if Path(named).is_dir():
        return _in_folder(Path(named))
    reference = parse_reference(named)
    if reference.backend == "hf":
        raise ArtifactReferenceError(
            "Only an artifact on this machine can be vetted.",
            expected="a folder, or a reference into a local registry",
            found=str(reference),
            next_step="Pull it first, and vet the folder.",
        )
    store = store_for(reference, registry or embedded_registry())
    entries = admitted_entries(store, reference)
    variants = sorted({entry.variant for entry in entries})
    if len(variants) > 1:
        raise ArtifactReferenceError(
            "The reference admits artifacts for several models.",
            expected="one variant",
            found=", ".join(variants),
            next_step=f"Name one: {reference.family}/{variants[0]}@{reference.range}",
        )
    pin = store.pin(entries[0])
    found = VettedArtifact(files=store.read(pin), manifest=pin.manifest, digest=pin.digest)
    if not isinstance(store, LocalDirectory) or store.name == EMBEDDED:
        return FoundArtifact(artifact=found, folder=None)
    return FoundArtifact(artifact=found, folder=store.root / pin.family / pin.variant / pin.version)


def _in_folder(folder: Path) -> FoundArtifact:
    files = read_folder(folder)
    content = files.get(MANIFEST)
    digest = manifest_digest(content or b"")
    manifest = pinned_manifest(content, digest, where=str(folder))
    return FoundArtifact(artifact=VettedArtifact(files=files, manifest=manifest, digest=digest), folder=folder)
