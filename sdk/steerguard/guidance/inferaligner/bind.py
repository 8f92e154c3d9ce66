"""Turn a planned InferAligner step and its verified artifact into interventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from steerguard.errors import ArtifactFormatError
from steerguard.guidance.inferaligner.formula import shift
from steerguard.guidance.intervention import Gate, Intervention, LinearGate, Positions, VerdictGate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.plan.plan import PlannedStep

VECTORS_FILE = "weights/vectors.safetensors"


def bind(step: PlannedStep, artifacts: Mapping[str, VerifiedArtifact]) -> tuple[Intervention, ...]:
    """Return one intervention per steered block; none at coefficient 0.

    Args:
        step: the planned step.
        artifacts: verified artifacts by role; needs `vectors` with tensors `theta`, `srv` `[blocks, width]` and
            `gate_bias` `[blocks]`.

    Raises:
        ArtifactFormatError: a tensor is missing or of another shape, or a steered block has no vector.
    """
    if float(step.coefficient) == 0.0:
        # Adding zeros could still turn a negative zero into a positive one.
        return ()
    tensors = _tensors(artifacts["vectors"])
    theta = tensors["theta"]
    empty = [block for block in step.blocks if not bool(theta[block].any())]
    if empty:
        raise ArtifactFormatError(
            "The artifact has no steering vector for blocks that the plan steers.",
            expected="a vector that is not zero",
            found=f"zeros at blocks {empty}",
            where=f"guidance entry `{step.id}`",
            next_step="Remove `blocks` from the policy to use the artifact's calibrated window.",
        )
    per_block = bool(step.read_blocks)
    return tuple(
        Intervention(
            step=step.id,
            block=block,
            vector=shift(theta[block], strength=float(step.strength), coefficient=float(step.coefficient)),
            gate=_gate(tensors, block) if per_block else VerdictGate(),
            positions=cast("Positions", step.positions),
        )
        for block in step.blocks
    )


def _tensors(artifact: VerifiedArtifact) -> Mapping[str, Tensor]:
    tensors = artifact.tensors.get(VECTORS_FILE, {})
    missing = sorted({"theta", "srv", "gate_bias"} - set(tensors))
    if missing:
        raise ArtifactFormatError(
            "An InferAligner artifact lacks tensors.",
            expected="theta, srv, gate_bias",
            found=f"missing {', '.join(missing)}",
            where=VECTORS_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    base = artifact.manifest.base
    shapes = {
        "theta": (base.num_blocks, base.hidden_size),
        "srv": (base.num_blocks, base.hidden_size),
        "gate_bias": (base.num_blocks,),
    }
    # Checked here, because a vector of width 1 would broadcast over the residual stream without an error.
    wrong = {name: tuple(tensors[name].shape) for name, shape in shapes.items() if tensors[name].shape != shape}
    if wrong:
        raise ArtifactFormatError(
            "A tensor of an InferAligner artifact has another shape than the model asks for.",
            expected={name: shapes[name] for name in wrong},
            found=wrong,
            where=VECTORS_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return tensors


def _gate(tensors: Mapping[str, Tensor], block: int) -> Gate:
    return LinearGate(weight=tensors["srv"][block].float(), bias=float(tensors["gate_bias"][block]))
