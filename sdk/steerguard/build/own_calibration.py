"""Calibrating the probe of an existing artifact on somebody's own benign prompts; the artifact itself never changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steerguard.artifacts.attestation import (
    Attestation,
    BenignPrompts,
    CalibrationStatement,
    MeasuredModel,
    Subject,
)
from steerguard.artifacts.calibration import Calibration, calibration_from_scores
from steerguard.artifacts.fingerprint import PROMPTS, Fingerprint, check_fingerprint, recorded_fingerprint
from steerguard.artifacts.fit import check_fit, fingerprint_entry
from steerguard.artifacts.probe_params import answer_reading, probe_parts
from steerguard.artifacts.recalibrate import recalibrated
from steerguard.artifacts.verify import VerifiedArtifact
from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.detect.bind import bind_probe
from steerguard.errors import CalibrationError
from steerguard.models.capture import capture_residuals, measure_fingerprint
from steerguard.models.chat import Conversation
from steerguard.models.inspect import inspect_model
from steerguard.plan.plan import PinnedArtifact, PlannedDetector


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCalibration:
    """Scores of one's own benign prompts, and the model that they were read from."""

    model: MeasuredModel
    prompts: BenignPrompts
    calibration: Calibration


def calibrate(
    artifact: VerifiedArtifact,
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    *,
    source: str,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> OwnCalibration:
    """Score benign prompts with the probe of a verified artifact, after the checks that `wrap` makes of the model.

    Args:
        artifact: a probe.
        model: the model as it is served: weight type and quantisation change scores.
        tokenizer: its tokenizer, with a chat template.
        conversations: benign prompts, drawn as the prompts that the guard will see.
        source: where they came from, for people; no prompt text.
        batch_size: conversations per forward.
        progress: called with (done, in all).

    Raises:
        IncompatibleModelError: the artifact was made for another model, or other weights.
        ArtifactFormatError: the parts of the probe are malformed.
        CalibrationError: no prompts, the artifact is no probe, or it is one of answers.
        NonFiniteHiddenStateError: a state holds NaN or an infinity.
    """
    if artifact.manifest.type != "probe":
        raise CalibrationError(
            "Only a probe has scores to calibrate.",
            where=artifact.manifest.reference,
            expected="probe",
            found=artifact.manifest.type,
        )
    if answer_reading(artifact.manifest) is not None:
        raise CalibrationError(
            "A probe of answers cannot be calibrated on prompts.",
            where=artifact.manifest.reference,
            expected="a probe that reads the end of the generation prompt",
            found="one that requires `probe.answer`",
            next_step="Build it with `steerguard build` on benign prompts of your own: the build calibrates on answers.",
        )
    if not conversations:
        raise CalibrationError("There are no prompts to calibrate on.", expected="at least one", found="none")
    distance = _checked_distance(artifact, model, tokenizer)
    probe = bind_probe(_detector(artifact), artifact)
    states = capture_residuals(
        model,
        tokenizer,
        conversations,
        probe.blocks,
        over=probe.over,
        batch_size=batch_size,
        progress=progress,
    )
    return OwnCalibration(
        model=MeasuredModel(weights=inspect_model(model, tokenizer).dtype, fingerprint_distance=f"{distance:.3g}"),
        prompts=described(conversations),
        calibration=calibration_from_scores(
            probe.score(states).tolist(),
            score=probe.meaning,
            source=source,
        ),
    )


def described(conversations: Sequence[Conversation]) -> BenignPrompts:
    """Return what an attestation says of prompts: counts and a digest.

    Args:
        conversations: one or more, in order.
    """
    texts = [canonical_bytes([dict(message) for message in conversation]) for conversation in conversations]
    content = b"[" + b",".join(texts) + b"]"
    return BenignPrompts(n=len(texts), distinct=len(set(texts)), sha256=sha256_hex(content))


def attest(artifact: VerifiedArtifact, own: OwnCalibration, *, created: str) -> Attestation:
    """Return the statement that these are the artifact's benign scores on this model; unsigned.

    Args:
        artifact: what was calibrated.
        own: the scores.
        created: time, UTC, `YYYY-MM-DDTHH:MM:SSZ`.
    """
    manifest = artifact.manifest
    return Attestation(
        subject=Subject(
            family=manifest.family, variant=manifest.variant, version=manifest.version, digest=artifact.digest
        ),
        predicate=CalibrationStatement(model=own.model, prompts=own.prompts, calibration=own.calibration),
        created=created,
    )


def new_version(
    files: dict[str, bytes], artifact: VerifiedArtifact, own: OwnCalibration, *, version: str, created: str
) -> dict[str, bytes]:
    """Return the files of a new version of the artifact with this calibration.

    Args:
        files: every file of the artifact.
        artifact: the same, verified.
        own: the scores.
        version: of the new artifact.
        created: time, UTC.

    Raises:
        ArtifactFormatError: the version is not higher than the artifact's.
    """
    calibration = own.calibration
    note = (
        f"Calibrated on {calibration.n} benign prompts, {calibration.source}: "
        f"the smallest false-positive rate that a policy may ask for is {calibration.smallest_fpr}."
    )
    return recalibrated(files, artifact.digest, calibration, version=version, created=created, note=note)


def _checked_distance(artifact: VerifiedArtifact, model: Any, tokenizer: Any) -> float:
    facts = inspect_model(model, tokenizer)
    check_fit(artifact.manifest, facts)
    entry = fingerprint_entry(artifact.manifest, facts)
    measured = Fingerprint(blocks=entry.blocks, directions=measure_fingerprint(model, tokenizer, entry.blocks, PROMPTS))
    return check_fingerprint(recorded_fingerprint(artifact, entry), measured, entry.max_one_minus_cos)


def _detector(artifact: VerifiedArtifact) -> PlannedDetector:
    manifest = artifact.manifest
    parts = probe_parts(manifest)
    return PlannedDetector(
        id="calibrated",
        type=manifest.method,
        artifact=PinnedArtifact(
            family=manifest.family,
            variant=manifest.variant,
            version=manifest.version,
            digest=artifact.digest,
            type=manifest.type,
        ),
        blocks=tuple(block for block, _ in parts),
        over=tuple(over for _, over in parts),
    )
