"""Local registries of tiny models under a trust policy: copied, signed, given a new version, locked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.artifact_samples import write_folder
from tests.guarded_models import registry_for
from tests.signed_artifacts import ACME, NOW, trust_text

from steerguard.artifacts.calibration import parse_calibration
from steerguard.artifacts.paths import CALIBRATION
from steerguard.artifacts.recalibrate import recalibrated
from steerguard.artifacts.times import time_text
from steerguard.plan.resolve import artifact_needs
from steerguard.policy.document import Policy
from steerguard.registry.local import LocalDirectory, create_registry
from steerguard.registry.lockfile import LockedArtifact, LockedPolicy, LockedRegistry, Lockfile, lockfile_of
from steerguard.registry.sources import locked_files


def copied_registry(root: Path, model) -> LocalDirectory:
    """Return a new registry with the random artifacts of a model; nothing in it is signed."""
    registry, source = create_registry(root), registry_for(model)
    for entry in source.entries():
        registry.add(source.root / entry.family / entry.variant / entry.version)
    return registry


def add_version(registry: LocalDirectory, family: str, version: str, work: Path) -> None:
    """Add a higher version of a probe that differs in where its calibration is said to come from."""
    pin = registry.pinned(family)[0]
    files = registry.read(pin)
    calibration = parse_calibration(files[CALIBRATION]).model_copy(update={"source": "other prompts"})
    made = recalibrated(files, pin.digest, calibration, version=version, created=time_text(NOW), note="Again.")
    registry.add(write_folder(work, made))


def trust_file(folder: Path, registry: LocalDirectory, *, extra: str = "") -> Path:
    """Write a trust policy that lets `ACME` publish in this registry."""
    path = folder / "trust.yaml"
    path.write_text(trust_text(registries=[registry.name], extra=extra), encoding="utf-8")
    return path


def lock_of(registry: LocalDirectory, policies: Sequence[Policy]) -> Lockfile:
    """Return a lock file with what the registry has now, for policies whose references name no registry."""
    needs = {policy.metadata.name: sorted(artifact_needs(policy)) for policy in policies}
    artifacts = [
        LockedArtifact(
            reference=reference,
            registry=registry.name,
            family=pin.family,
            variant=pin.variant,
            version=pin.version,
            digest=pin.digest,
            repo=None,
            commit=None,
            files=locked_files(pin.manifest),
            signed_by=(ACME.public.id,),
            vetting=None,
        )
        for reference in sorted({one for references in needs.values() for one in references})
        for pin in registry.pinned(reference.partition("@")[0])[:1]
    ]
    named = [
        LockedPolicy(name=one.metadata.name, digest=one.digest, references=tuple(needs[one.metadata.name]))
        for one in policies
    ]
    seen = LockedRegistry(registry=registry.name, index_sequence=None, index_sha256=None, revocations_sequence=None)
    return lockfile_of(named, [seen], artifacts)
