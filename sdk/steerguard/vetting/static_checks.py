"""Level 1: what can be checked of an artifact without an answer, one after the other, each with what was found.

A check that fails ends the list: what comes after it would judge bytes that are already known to be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steerguard.artifacts.fingerprint import PROMPTS, Fingerprint, check_fingerprint, recorded_fingerprint
from steerguard.artifacts.fit import check_fit, fingerprint_entry
from steerguard.artifacts.integrity import check_integrity
from steerguard.artifacts.verify import VerifiedArtifact, verify_artifact
from steerguard.artifacts.vetting import StaticCheck
from steerguard.errors import ArtifactError, GuidanceError, PlanError
from steerguard.methods.bounds import decimal_text
from steerguard.models.capture import measure_fingerprint
from steerguard.models.facts import ModelFacts
from steerguard.vetting.overlay import VettedArtifact

_MOST_TEXT = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticFindings:
    """What the static checks found."""

    checks: tuple[StaticCheck, ...]
    fingerprint_distance: str | None
    """Largest 1 - cos, decimal text; None where it was not measured."""

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def static_checks(vetted: VettedArtifact, model: Any, tokenizer: Any, facts: ModelFacts) -> StaticFindings:
    """Check an artifact and whether it fits a model.

    Args:
        vetted: the artifact.
        model: plain, not wrapped.
        tokenizer: its tokenizer, with a chat template.
        facts: of the model.
    """
    checks: list[StaticCheck] = []
    artifact: list[VerifiedArtifact] = []
    distances: list[float] = []

    def integrity() -> str:
        manifest, calibration = check_integrity(vetted.files, vetted.digest)
        has = "no calibration" if calibration is None else f"a calibration of {calibration.n} scores"
        return f"{len(manifest.files)} files have the digests of the manifest, headers agree with it, {has}"

    def tensors() -> str:
        artifact.append(verify_artifact(vetted.files, vetted.digest))
        count = sum(len(one) for one in artifact[0].tensors.values())
        return f"{count} tensors hold finite values only"

    def fit() -> str:
        check_fit(vetted.manifest, facts)
        return (
            f"{facts.decoder} of {facts.num_blocks} blocks and width {facts.hidden_size}, tokenizer and template agree"
        )

    def fingerprint() -> str:
        entry = fingerprint_entry(vetted.manifest, facts)
        directions = measure_fingerprint(model, tokenizer, entry.blocks, PROMPTS)
        measured = Fingerprint(blocks=entry.blocks, directions=directions)
        distances.append(check_fingerprint(recorded_fingerprint(artifact[0], entry), measured, entry.max_one_minus_cos))
        return f"1 - cos {distances[0]:.3g} on {facts.dtype} weights, accepted up to {entry.max_one_minus_cos}"

    for name, check in (("integrity", integrity), ("tensors", tensors), ("fit", fit), ("fingerprint", fingerprint)):
        checks.append(_checked(name, check))
        if not checks[-1].passed:
            break
    return StaticFindings(
        checks=tuple(checks), fingerprint_distance=decimal_text(float(f"{distances[0]:.3g}")) if distances else None
    )


def _checked(name: str, check: Callable[[], str]) -> StaticCheck:
    """Run one check; what these error classes say is a finding about the artifact, anything else is a fault and goes on up."""
    try:
        return StaticCheck(id=name, passed=True, found=check())
    except (ArtifactError, PlanError, GuidanceError) as error:
        return StaticCheck(id=name, passed=False, found=f"{error.code}: {error}"[:_MOST_TEXT])
