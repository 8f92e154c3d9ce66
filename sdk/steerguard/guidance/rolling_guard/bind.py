"""Turn a planned step of the rolling guard and its verified probe into an answer watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from steerguard.artifacts.probe_params import probe_parts
from steerguard.detect.linear_probe import bind_linear_probe
from steerguard.detect.probe import PROBE_FILE
from steerguard.errors import ArtifactFormatError, UnsupportedPlanError
from steerguard.guidance.answer_watch import AnswerWatch
from steerguard.plan.plan import PlannedDetector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.methods.rolling_guard import RollingGuardSpec
    from steerguard.plan.plan import PlannedStep


def bind(step: PlannedStep, artifacts: Mapping[str, VerifiedArtifact]) -> tuple[AnswerWatch, ...]:
    """Return the one watch of the step.

    Args:
        step: the planned step, its threshold resolved.
        artifacts: verified artifacts by role; needs `probe`.

    Raises:
        ArtifactFormatError: a tensor of the probe is missing, of another shape or not finite.
        UnsupportedPlanError: the step was planned without a threshold.
    """
    artifact, spec = artifacts["probe"], cast("RollingGuardSpec", step.spec)
    if step.threshold is None:
        raise UnsupportedPlanError(
            "A rolling guard was planned without a threshold.",
            expected="a resolved threshold",
            found="none",
            where=f"guidance entry `{step.id}`",
            next_step="Compile the plan of this very policy with compile_plan.",
        )
    parts = probe_parts(artifact.manifest)
    detector = PlannedDetector(
        id=step.id,
        type="linear_probe",
        artifact=step.artifacts["probe"],
        blocks=tuple(block for block, _ in parts),
        over=tuple(over for _, over in parts),
    )
    probe = bind_linear_probe(detector, artifact)
    # A weight that is not finite would refuse every row at its first read.
    if not bool(torch.isfinite(probe.weight).all() and torch.isfinite(probe.bias).all()):
        raise ArtifactFormatError(
            "A weight of the probe is not finite.",
            expected="finite weight and bias",
            found="a value that is not",
            where=PROBE_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return (
        AnswerWatch(
            step=step.id,
            probe=probe,
            threshold=step.threshold.value,
            fpr=step.threshold.fpr,
            first=spec.first,
            every=spec.every,
            in_a_row=spec.in_a_row,
            opens=spec.opens,
        ),
    )
