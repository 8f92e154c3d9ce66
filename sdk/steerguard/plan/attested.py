"""Calibrations that a policy brings along: read from the file that it names, and held against artifact and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.artifacts.attestation import Attestation, parse_attestation
from steerguard.artifacts.calibration import Calibration
from steerguard.artifacts.fit import fingerprint_entry
from steerguard.artifacts.paths import MAX_FILE_BYTES
from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactIntegrityError, CalibrationError

if TYPE_CHECKING:
    from pathlib import Path

    from steerguard.models.facts import ModelFacts
    from steerguard.policy.document import Policy, ProbeDetector
    from steerguard.registry.store import PinnedManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedCalibration:
    """A calibration from an attestation that fits artifact and model."""

    calibration: Calibration
    digest: str
    """`sha256:<hex>` over the bytes of the attestation."""


def attested_calibrations(
    policy: Policy, reference: str, pin: PinnedManifest, facts: ModelFacts
) -> dict[str, AttestedCalibration]:
    """Return, by detector id, the calibrations that a policy gives for one artifact.

    Args:
        policy: the document.
        reference: the artifact as the policy names it.
        pin: the variant that was chosen for it.
        facts: the model.

    Raises:
        CalibrationError: a file cannot be read, or its calibration is of another artifact or other weights.
        ArtifactIntegrityError: a file has not the digest that the policy states.
        ArtifactFormatError: a file is not an attestation of a calibration.
    """
    return {
        detector.id: _attested(policy, detector, pin, facts)
        for detector in policy.detectors
        if detector.artifact == reference and detector.calibration is not None
    }


def _attested(policy: Policy, detector: ProbeDetector, pin: PinnedManifest, facts: ModelFacts) -> AttestedCalibration:
    assert detector.calibration is not None
    path = policy.path_of(detector.calibration.file)
    where = f"detector `{detector.id}`: calibration: {path}"
    content = _content(path, where)
    found = sha256_hex(content)
    if found != detector.calibration.sha256:
        raise ArtifactIntegrityError(
            "The calibration file is not the one that the policy pins.",
            where=where,
            expected=detector.calibration.sha256,
            found=found,
            next_step="Restore the file; if the change is intended, write its new sha256 into the policy.",
        )
    attestation = parse_attestation(content, where=where)
    _check(attestation, pin, facts, where)
    return AttestedCalibration(calibration=attestation.predicate.calibration, digest=f"sha256:{found}")


def _check(attestation: Attestation, pin: PinnedManifest, facts: ModelFacts, where: str) -> None:
    subject, model = attestation.subject, attestation.predicate.model
    if subject.digest != pin.digest:
        raise CalibrationError(
            "The calibration is of another artifact than the one that the plan uses.",
            where=where,
            expected=f"{pin.reference} ({pin.digest})",
            found=f"{subject.reference} ({subject.digest})",
            next_step=f"Run `steerguard calibrate {pin.reference}`, or name {subject.reference} in the policy.",
        )
    if model.weights != facts.dtype:
        raise CalibrationError(
            "The calibration was made with another type of weights than the model's.",
            where=where,
            expected=facts.dtype,
            found=model.weights,
            next_step=f"Run `steerguard calibrate` with --weights {facts.dtype}, or load the model in {model.weights}.",
        )
    limit = fingerprint_entry(pin.manifest, facts).max_one_minus_cos
    if not 0 <= float(model.fingerprint_distance) <= float(limit):
        raise CalibrationError(
            "The calibration was made on a model that the artifact does not fit.",
            where=where,
            expected=f"fingerprint_distance from 0 to {limit}",
            found=model.fingerprint_distance,
            next_step="Run `steerguard calibrate` on the model that is served.",
        )


def _content(path: Path, where: str) -> bytes:
    """Return the bytes of a regular file of bounded size."""
    try:
        # Anything but a file, such as a pipe, could keep the reader waiting.
        if not path.is_file():
            raise CalibrationError(
                "The calibration file does not exist.",
                where=where,
                expected="a file written by `steerguard calibrate`",
                found="a folder" if path.is_dir() else "no file",
                next_step="Correct the path; a relative one starts at the folder of the policy file.",
            )
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise CalibrationError("The calibration file cannot be read.", where=where, found=reason) from error
    if len(content) > MAX_FILE_BYTES:
        raise CalibrationError(
            "The calibration file is too large.", where=where, expected=f"at most {MAX_FILE_BYTES} bytes"
        )
    return content
