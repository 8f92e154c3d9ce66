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
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError, IncompatibleModelError, MissingVariantError
from steerguard.plan.attested import AttestedCalibration, attested_calibrations
from steerguard.registry.resolve import pinned_variants, store_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.models.facts import ModelFacts
    from steerguard.policy.document import Policy
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


def resolve_artifacts(policy: Policy, facts: ModelFacts, store: ArtifactStore) -> dict[str, ResolvedArtifact]:
    """Return the chosen variant for every artifact reference of the policy.

    Among the variants in the version range that fit the model, the highest version wins.

    Raises:
        ArtifactNotFoundError: the store has no such family or no version in the range.
        MissingVariantError: no variant was made for this model.
        ArtifactFormatError: the chosen artifact is of another type than the policy uses it as.
        ArtifactIntegrityError: a calibration differs from its digest.
        CalibrationError: a calibration that the policy names is absent, or of another artifact or other weights.
    """
    wanted: dict[str, tuple[str, ...]] = {detector.artifact: ("probe",) for detector in policy.detectors}
    for step in policy.guidance:
        for need in step.artifact_needs():
            wanted.setdefault(need.reference, need.types)
    found = {reference: resolve_reference(reference, types, facts, store) for reference, types in wanted.items()}
    return {
        reference: replace(artifact, attested=attested_calibrations(policy, reference, artifact.pin, facts))
        for reference, artifact in found.items()
    }


def resolve_reference(
    reference: str, types: tuple[str, ...], facts: ModelFacts, store: ArtifactStore
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
    """
    misfits: list[str] = []
    parsed = parse_reference(reference)
    source = store_for(parsed, store)
    for pin in pinned_variants(store, parsed):
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
        return ResolvedArtifact(pin=pin, store=source, calibration=_calibration(pin, source))
    raise MissingVariantError(
        f"No variant of `{parsed.family}` fits this model.",
        expected=f"a variant for {facts.decoder} with {facts.num_blocks} blocks of width {facts.hidden_size}",
        found="; ".join(misfits),
        where=f"reference `{reference}`",
        next_step=_build_line(parsed.family, facts),
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
