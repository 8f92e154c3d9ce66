"""From the rules of a policy to rules with resolved bounds: conditions keep their shape, rates become scores."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from steerguard.artifacts.calibration import next_float32, to_float32
from steerguard.errors import CalibrationError
from steerguard.policy.rule_documents import (
    AllCondition,
    AlwaysCondition,
    AnyCondition,
    NotCondition,
    ScoreCondition,
)
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    near,
)

if TYPE_CHECKING:
    from steerguard.artifacts.calibration import Calibration
    from steerguard.methods.bounds import Bound
    from steerguard.plan.resolve import ResolvedArtifact
    from steerguard.policy.document import ProbeDetector
    from steerguard.policy.rule_documents import Clause, Rule
    from steerguard.policy.rules import PlannedCondition

    _Detectors = Mapping[str, tuple[ProbeDetector, ResolvedArtifact]]


def float32(value: float) -> float:
    """Return the nearest float32, so that host and device compare a score with the same number."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def planned_rule(rule: Rule, detectors: _Detectors, tolerances: Mapping[str, float]) -> PlannedRule:
    """Return a rule with its bounds resolved.

    Args:
        rule: of the policy.
        detectors: by id, each with its artifact.
        tolerances: the score tolerance of each detector, by id.

    Raises:
        CalibrationError: a `{fpr: x}` threshold cannot be resolved.
    """
    where = f"rule `{rule.id}`"
    when = None if isinstance(rule.when, AlwaysCondition) else _planned(rule.when, detectors, tolerances, where)
    return PlannedRule(id=rule.id, when=when, action=rule.then.action, use=tuple(rule.then.use))


def _planned(condition: Clause, detectors: _Detectors, tolerances: Mapping[str, float], where: str) -> PlannedCondition:
    match condition:
        case AnyCondition(any_of=parts):
            return PlannedAny(any_of=tuple(_planned(part, detectors, tolerances, where) for part in parts))
        case AllCondition(all_of=parts):
            return PlannedAll(all_of=tuple(_planned(part, detectors, tolerances, where) for part in parts))
        case NotCondition(negated=part):
            return PlannedNot(negated=_planned(part, detectors, tolerances, where))
        case ScoreCondition(detector=detector, score=score):
            return PlannedComparison(
                detector=detector,
                at_least=_bound(score.at_least, *detectors[detector], tolerances[detector], where),
                below=_bound(score.below, *detectors[detector], tolerances[detector], where),
            )


def _bound(
    bound: Bound | None, detector: ProbeDetector, artifact: ResolvedArtifact, tolerance: float, where: str
) -> PlannedBound | None:
    if bound is None:
        return None
    if bound.value is not None:
        return PlannedBound(value=float32(bound.value), fpr=None)
    calibrated = float32(_calibration(detector, artifact, where).threshold(bound.fpr))
    return PlannedBound(value=raised(calibrated, tolerance), fpr=bound.fpr_text)


def raised(calibrated: float, tolerance: float) -> float:
    """Return the lowest bound whose tolerance does not reach below a calibrated threshold.

    A row that may reach the bound counts as reaching it, so its rate is that of the scores from `bound - tolerance` on:
    these must be the ones from the calibrated threshold on, or benign rows would be taken more often than was asked for.

    Args:
        calibrated: float32.
        tolerance: at least 0.0.
    """
    bound = to_float32(calibrated + tolerance)
    while near(bound, tolerance)[0] < calibrated:
        bound = next_float32(bound)
    return bound


def planned_threshold(bound: Bound, artifact: ResolvedArtifact, where: str) -> PlannedBound:
    """Return the threshold of a guidance entry with its rate resolved from the artifact's own calibration.

    Raises:
        CalibrationError: a `{fpr: x}` threshold cannot be resolved.
    """
    if bound.value is not None:
        return PlannedBound(value=float32(bound.value), fpr=None)
    return PlannedBound(value=float32(_own_calibration(artifact, where).threshold(bound.fpr)), fpr=bound.fpr_text)


def _calibration(detector: ProbeDetector, artifact: ResolvedArtifact, where: str) -> Calibration:
    if detector.calibration is not None:
        attested = artifact.attested.get(detector.id)
        if attested is None:
            # Never the artifact's own in place of what the policy names.
            raise CalibrationError(
                "The calibration that the policy names was not resolved.",
                where=f"detector `{detector.id}`",
                expected=detector.calibration.file,
                found="nothing",
                next_step="Resolve the artifacts of this very policy with resolve_artifacts.",
            )
        return attested.calibration
    return _own_calibration(artifact, where)


def _own_calibration(artifact: ResolvedArtifact, where: str) -> Calibration:
    pin = artifact.pin
    if artifact.calibration is None:
        raise CalibrationError(
            "A calibrated threshold needs a calibration, and the artifact has none.",
            expected="calibration.json in the artifact, or `calibration` in the detector",
            found=f"{pin.family}/{pin.variant}@{pin.version} without one",
            where=where,
            next_step="Write the threshold as {value: x}, or build the artifact with calibration prompts.",
        )
    return artifact.calibration
