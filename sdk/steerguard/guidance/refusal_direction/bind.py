"""Turn a planned step of the refusal direction and its verified artifact into interventions.

File `weights/vectors.safetensors`: `theta` float32 `[blocks of the model, width]`, the difference of means after each
block, not normalised. `add` adds the row of each steered block; `ablate` removes the component along one row, that of
the block `params.source_block`, everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from steerguard.errors import ArtifactFormatError
from steerguard.guidance.intervention import Ablate, Intervention, Operated, VerdictGate
from steerguard.guidance.vector_schedules import VECTORS_FILE, block_schedules, vector_tensors
from steerguard.methods.refusal_direction import RefusalDirectionSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.guidance.intervention import ModalityTokens, Point, Positions
    from steerguard.plan.plan import PlannedStep


def bind(step: PlannedStep, artifacts: Mapping[str, VerifiedArtifact]) -> tuple[Intervention, ...]:
    """Return the interventions of the step's mode; none at coefficient 0.

    Args:
        step: the planned step.
        artifacts: verified artifacts by role; needs `vectors` with the tensor `theta`.

    Raises:
        ArtifactFormatError: a tensor is missing or of another shape, a steered block has no direction, or the block
            whose direction is ablated is not stated.
    """
    if float(step.coefficient) == 0.0:
        # Adding zeros could still turn a negative zero into a positive one.
        return ()
    artifact = artifacts["vectors"]
    tensors = vector_tensors(artifact)
    if cast("RefusalDirectionSpec", step.spec).mode == "add":
        schedules = block_schedules(step, artifact.manifest, tensors)
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
    operator = Ablate(direction=unit_direction(artifact, tensors["theta"]), coefficient=float(step.coefficient))
    schedule = Operated(operator=operator, positions=cast("Positions", step.positions))
    return tuple(
        Intervention(
            step=step.id,
            block=block,
            schedule=schedule,
            gate=VerdictGate(),
            point=cast("Point", point),
            modality_tokens=cast("ModalityTokens", step.modality_tokens),
        )
        for block in step.blocks
        for point in step.points
    )


def unit_direction(artifact: VerifiedArtifact, theta: Tensor) -> Tensor:
    """Return the direction that is ablated, float32 `[width]`, of length 1.

    Args:
        artifact: its manifest states `source_block`.
        theta: `[blocks of the model, width]`.

    Raises:
        ArtifactFormatError: `source_block` is no block of the model, or its row has no length.
    """
    source = artifact.manifest.params.get("source_block")
    if type(source) is not int or not 0 <= source < theta.shape[0]:
        raise ArtifactFormatError(
            "The artifact does not say which block's direction is ablated.",
            expected=f"a decoder block from 0 to {theta.shape[0] - 1}",
            found=repr(source)[:80],
            where="manifest.json: params.source_block",
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    row = theta[source].double()
    length = float(row.norm())
    if not 0.0 < length < float("inf"):
        raise ArtifactFormatError(
            "The direction to ablate has no length.",
            expected="a vector that is finite and not zero",
            found=f"length {length}",
            where=f"{VECTORS_FILE}: theta[{source}]",
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return (row / length).to(torch.float32)
