"""Turn a planned step of fitted refusal vectors and its verified artifact into interventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from steerguard.guidance.intervention import Intervention, VerdictGate
from steerguard.guidance.vector_schedules import block_schedules, vector_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.guidance.intervention import ModalityTokens
    from steerguard.plan.plan import PlannedStep


def bind(step: PlannedStep, artifacts: Mapping[str, VerifiedArtifact]) -> tuple[Intervention, ...]:
    """Return one intervention per steered block; none at coefficient 0.

    Args:
        step: the planned step.
        artifacts: verified artifacts by role; needs `vectors` with the tensors of its schedule.

    Raises:
        ArtifactFormatError: a tensor is missing or of another shape, or a steered block has no vector.
    """
    if float(step.coefficient) == 0.0:
        # Adding zeros could still turn a negative zero into a positive one.
        return ()
    artifact = artifacts["vectors"]
    schedules = block_schedules(step, artifact.manifest, vector_tensors(artifact))
    return tuple(
        Intervention(
            step=step.id,
            block=block,
            schedule=schedule,
            gate=VerdictGate(),
            modality_tokens=cast("ModalityTokens", step.modality_tokens),
        )
        for block, schedule in schedules.items()
    )
