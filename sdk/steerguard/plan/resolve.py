"""Find, for each artifact that a policy names, the variant bound to this model. Reads manifests, no tensors."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steerguard.artifacts.calibration import Calibration, parse_calibration
from steerguard.artifacts.fit import check_fit, fingerprint_entry
from steerguard.artifacts.integrity import located
from steerguard.artifacts.reference import NAME_MAX_LENGTH, parse_reference
from steerguard.canonical import sha256_hex
from steerguard.content import shipped_recipes
from steerguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    IncompatibleModelError,
    LockMismatchError,
    MissingVariantError,
)
from steerguard.plan.attested import AttestedCalibration, attested_calibrations
from steerguard.registry.sources import Sources
from steerguard.registry.store import Evidence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.models.facts import ModelFacts
    from steerguard.policy.document import Policy
    from steerguard.registry.lockfile import Lockfile
    from steerguard.registry.store import ArtifactStore, PinnedManifest

CALIBRATION_FILE = "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedArtifact:
    """The chosen variant of one reference."""

    pin: PinnedManifest
    store: ArtifactStore
    """Where its bytes are read from."""
    calibration: Calibration | None
    """The artifact's own; None when it has none."""
    attested: Mapping[str, AttestedCalibration] = field(default_factory=dict)
    """What the policy puts in its place, by detector id."""
    evidence: Evidence = field(default_factory=Evidence)
    """Who vouches for it."""


def resolve_artifacts(policy: Policy, facts: ModelFacts, store: ArtifactStore | Sources) -> dict[str, ResolvedArtifact]:
    """Return the chosen variant for every artifact reference of the policy.

    Among the variants in the version range that fit the model, the highest version wins.

    Args:
        policy: the policy; with a lock file, one of those that it was made for.
        facts: the model.
        store: a store, or stores with a lock file and a judge.

    Raises:
        ArtifactNotFoundError: the store has no such family or no version in the range, or a locked one was not pulled.
        MissingVariantError: no variant was made for this model.
        ArtifactFormatError: the chosen artifact is of another type than the policy uses it as.
        ArtifactIntegrityError: a calibration differs from its digest.
        CalibrationError: a calibration that the policy names is absent, or of another artifact or other weights.
        TrustError: nobody who is trusted vouches for an artifact, or it is revoked.
        LockError: the lock file was made for something else, or does not pin a remote artifact.
    """
    sources = Sources.of(store)
    if sources.lock is not None:
        _require_locked(policy, sources.lock)
    wanted = artifact_needs(policy)
    found = {reference: resolve_reference(reference, types, facts, sources) for reference, types in wanted.items()}
    return {
        reference: replace(artifact, attested=attested_calibrations(policy, reference, artifact.pin, facts))
        for reference, artifact in found.items()
    }


def artifact_needs(policy: Policy) -> dict[str, tuple[str, ...]]:
    """Return every artifact reference of a policy with the types of which the artifact must be one."""
    wanted: dict[str, tuple[str, ...]] = {detector.artifact: ("probe",) for detector in policy.detectors}
    for step in policy.guidance:
        for need in step.artifact_needs():
            wanted.setdefault(need.reference, need.types)
    return wanted


def resolve_reference(
    reference: str, types: tuple[str, ...], facts: ModelFacts, store: ArtifactStore | Sources
) -> ResolvedArtifact:
    """Return the variant of one reference that fits the model, the highest version first.

    Args:
        reference: family, perhaps variant, and version range.
        types: types of which the artifact must be one.
        facts: the model.
        store: where artifacts come from.

    Raises:
        ArtifactNotFoundError: the store has no such family or no version in the range.
        MissingVariantError: no variant was made for this model.
        ArtifactFormatError: the chosen artifact is of another type.
        ArtifactIntegrityError: the calibration differs from its digest.
        TrustError: nobody who is trusted vouches for it, or it is revoked.
        LockError: the lock file does not pin it, or pins something else.
    """
    misfits: list[str] = []
    parsed = parse_reference(reference)
    for candidate in Sources.of(store).candidates(parsed):
        pin = candidate.pin
        try:
            check_fit(pin.manifest, facts)
            fingerprint_entry(pin.manifest, facts)
        except IncompatibleModelError as error:
            misfits.append(f"{pin.variant}@{pin.version} ({error.summary} It differs in {error.where}.)")
            continue
        if pin.manifest.type not in types:
            kinds = " or ".join(f"`{kind}`" for kind in types)
            raise ArtifactFormatError(
                f"Artifact `{pin.family}` is used as {kinds} but is of another type.",
                expected=" or ".join(types),
                found=pin.manifest.type,
                where=f"{pin.family}/{pin.variant}@{pin.version}",
                next_step="Name an artifact of the expected type in the policy.",
            )
        return ResolvedArtifact(
            pin=pin,
            store=candidate.store,
            calibration=_calibration(pin, candidate.store),
            evidence=candidate.evidence,
        )
    raise MissingVariantError(
        f"No variant of `{parsed.family}` fits this model.",
        expected=f"a variant for {facts.decoder} with {facts.num_blocks} blocks of width {facts.hidden_size}",
        found="; ".join(misfits),
        where=f"reference `{reference}`",
        next_step=_build_line(parsed.family, facts),
    )


def _require_locked(policy: Policy, lock: Lockfile) -> None:
    if policy.digest not in {locked.digest for locked in lock.policies}:
        raise LockMismatchError(
            f"The lock file was not made for this text of the policy `{policy.metadata.name}`.",
            expected=", ".join(f"{locked.name} {locked.digest}" for locked in lock.policies) or "no policy at all",
            found=policy.digest,
            next_step="Run steerguard lock with every policy that is used, those of single requests too.",
        )


def _build_line(family: str, facts: ModelFacts) -> str:
    # `steerguard build` reads a model from a folder, and a name on the Hub is none.
    local = facts.name and Path(facts.name).is_dir()
    model = shlex.quote(facts.name) if local else "<model folder>"
    variant = _variant_name(Path(facts.name).name) if local else "my-model"
    recipe = family if family in shipped_recipes() else "<recipe>.yaml"
    command = (
        f"steerguard build {recipe} --model {model} --variant {variant} --scale-blocks "
        f"--out ./{family}-{variant} --registry ./my-registry"
    )
    note = "" if family in shipped_recipes() else f" with a recipe for `{family}`"
    return f"Build one{note}: {command}, then wrap with registry=Path('my-registry')."


def _variant_name(folder: str) -> str:
    """Return a legal name for the variant of a model that lies in a folder."""
    letters = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")
    return letters[:NAME_MAX_LENGTH].strip("-") or "my-model"


def _calibration(pin: PinnedManifest, store: ArtifactStore) -> Calibration | None:
    entry = next((file for file in pin.manifest.files if file.path == CALIBRATION_FILE), None)
    if entry is None:
        return None
    content = store.read(pin).get(CALIBRATION_FILE, b"")
    if sha256_hex(content) != entry.sha256:
        raise ArtifactIntegrityError(
            "The calibration differs from the digest in the manifest.",
            expected=entry.sha256,
            found=sha256_hex(content),
            where=f"{pin.family}/{pin.variant}@{pin.version}/{CALIBRATION_FILE}",
            next_step="Restore the artifact from its source.",
        )
    with located(pin.reference):
        return parse_calibration(content)
