"""Tiny models whose artifacts come from the Hub as it is after `lock` and `sync`: signed, locked, pulled, with lists."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.artifact_samples import write_folder
from tests.guarded_models import policy, registry_for
from tests.signed_artifacts import ACME, HUB, OWNER, release, signed_list, trust_text

from steerguard.policy.document import Policy
from steerguard.policy.load import parse_policy
from steerguard.registry.lockfile import LockedArtifact, LockedPolicy, LockedRegistry, Lockfile, lockfile_of, write_lock
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS, RevokedArtifact, revocation_list
from steerguard.registry.sources import locked_files

COMMIT = "b" * 40


@dataclass(frozen=True, kw_only=True)
class Project:
    """What an app that uses artifacts of `hf://acme` has on its disk."""

    pulled: PulledArtifacts
    policy: Policy
    trust: Path
    lock: Path

    def publish_list(
        self, *artifacts: RevokedArtifact, sequence: int = 2, age: timedelta = timedelta(minutes=1)
    ) -> None:
        """Remember another list of revocations of the registry, as `sync` and the watch do."""
        issued = datetime.now(UTC) - age
        document = revocation_list(
            HUB, sequence=sequence, issued=issued, expires=issued + timedelta(days=30), artifacts=artifacts
        )
        self.pulled.remember(HUB, REVOCATIONS, signed_list(document, OWNER))


def on_the_hub(document: Policy) -> Policy:
    """Return a policy with every reference pointing to `hf://acme`."""
    text = json.dumps(document.document())
    for family in ("harmful-intent", "inferaligner"):
        text = text.replace(f'"{family}@', f'"{HUB}/{family}@')
    return parse_policy(text, file="policy.json")


def locked_project(folder: Path, model, *, document: Policy | None = None) -> Project:
    """Return a project with the random artifacts of a model, signed by `ACME`, locked and pulled."""
    used = on_the_hub(document or policy())
    pulled = PulledArtifacts(folder / "store")
    source = registry_for(model)
    locked = []
    for entry in source.entries():
        pin = source.pin(entry)
        files = {**source.read(pin), **release(pin.manifest, pin.digest, ACME)}
        staged = write_folder(
            folder / "staged" / entry.family, {path: bytes(content) for path, content in files.items()}
        )
        with pulled.one_at_a_time(pin.digest):
            target = pulled.partial(pin.digest) / "whole"
            staged.rename(target)
            pulled.put(pin.digest, target)
        locked.append((entry, locked_files(pin.manifest)))
    references = sorted({*(one.artifact for one in used.detectors), *(step.artifact for step in used.guidance)})
    project = Project(pulled=pulled, policy=used, trust=folder / "trust.yaml", lock=folder / "steerguard.lock")
    write_lock(project.lock, _lock(used, references, locked))
    project.trust.write_text(trust_text(registries=[HUB], signed=[HUB]))
    project.publish_list(sequence=1)
    return project


def _lock(used: Policy, references, locked) -> Lockfile:
    artifacts = [
        LockedArtifact(
            reference=reference,
            registry=HUB,
            family=entry.family,
            variant=entry.variant,
            version=entry.version,
            digest=entry.digest,
            repo=f"acme/{entry.family}_{entry.variant}",
            commit=COMMIT,
            files=files,
            signed_by=(ACME.public.id,),
            vetting=None,
        )
        for reference in references
        for entry, files in locked
        if reference.startswith(f"{HUB}/{entry.family}@")
    ]
    policies = [LockedPolicy(name=used.metadata.name, digest=used.digest, references=tuple(references))]
    seen = LockedRegistry(registry=HUB, index_sequence=1, index_sha256="0" * 64, revocations_sequence=1)
    return lockfile_of(policies, [seen], artifacts)
