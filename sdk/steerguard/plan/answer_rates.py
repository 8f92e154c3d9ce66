"""Which probe may be read where: probes of prompts by detectors, and rates of a rolling guard from probes of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.artifacts.probe_params import answer_reading
from steerguard.errors import CalibrationError, UnsupportedPlanError
from steerguard.methods.bounds import CalibratedBound
from steerguard.methods.rolling_guard import RollingGuardSpec

if TYPE_CHECKING:
    from steerguard.artifacts.manifest import ArtifactManifest
    from steerguard.methods.spec import GuidanceSpec


def check_reads_prompts(manifest: ArtifactManifest, detector: str) -> None:
    """Refuse a detector whose probe was fitted to answers: its scores mean nothing at the end of a prompt.

    Args:
        manifest: of the detector's probe.
        detector: its id.

    Raises:
        UnsupportedPlanError: it is a probe of answers.
        ArtifactFormatError: its `params` are malformed.
    """
    if answer_reading(manifest) is not None:
        raise UnsupportedPlanError(
            f"Detector `{detector}` names a probe that reads answers, not prompts.",
            expected="a probe that reads the end of the generation prompt",
            found=f"{manifest.reference}, which requires `probe.answer`",
            where=f"detector `{detector}`",
            next_step="Name a probe of prompts, or read this one in a guidance entry with `method: rolling_guard`.",
        )


def check_answer_rate(spec: GuidanceSpec, manifest: ArtifactManifest) -> None:
    """Refuse a rate of a rolling guard that its probe's calibration says nothing about.

    A rate is the share of benign answers that reach the threshold, so it holds only where an answer is read as the
    calibration read it. A raw score is accepted with any reads, and with a probe of prompts.

    Args:
        spec: of a guidance entry with a threshold.
        manifest: of its probe.

    Raises:
        CalibrationError: the probe was calibrated on prompts, or on answers that were read otherwise.
        ArtifactFormatError: the `params` of the probe are malformed.
    """
    if not isinstance(spec, RollingGuardSpec) or not isinstance(spec.threshold, CalibratedBound):
        return
    where = f"guidance entry `{spec.id}`"
    reading = answer_reading(manifest)
    if reading is None:
        raise CalibrationError(
            "A rate of a rolling guard needs a probe that was calibrated on answers.",
            expected="a probe of answers, which requires `probe.answer`",
            found=f"{manifest.reference}, calibrated on prompts",
            where=where,
            next_step="Name a probe of answers such as `harmful-answer`, or write the threshold as {value: x}.",
        )
    if not reading.same_reads(first=spec.first, every=spec.every, in_a_row=spec.in_a_row):
        raise CalibrationError(
            "The rate was calibrated on answers that were read otherwise than this entry reads them.",
            expected=f"{_settings(reading.first, reading.every, reading.in_a_row)} (calibration of {manifest.reference})",
            found=_settings(spec.first, spec.every, spec.in_a_row),
            where=where,
            next_step="Write the settings of the calibration into the entry, or its threshold as {value: x}.",
        )


def _settings(first: int, every: int, in_a_row: int) -> str:
    return f"first: {first}, every: {every}, in_a_row: {in_a_row}"
