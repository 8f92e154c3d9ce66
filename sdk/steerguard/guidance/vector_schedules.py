"""From the tensors of an artifact of steering vectors to what each block adds when; for every method that adds vectors.

File `weights/vectors.safetensors`, by schedule (`params.schedule` of the manifest; `constant` when it states none):

    constant    theta [blocks, width]
    by_phase    theta_prompt, theta_last, theta_decode, each [blocks, width]
    by_step     theta_prompt, theta_last, each [blocks, width], and theta_steps [steps, blocks, width]

Every vector is multiplied by `coefficient * strength`.
A vector of zeros adds nothing, not even where it would turn a negative zero into a positive one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from steerguard.errors import ArtifactFormatError
from steerguard.guidance.intervention import ByPhase, ByStep, Constant, FirstSteps, Positions, Schedule
from steerguard.methods.vector_steering import VectorSchedule, read_schedule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from steerguard.artifacts.manifest import ArtifactManifest
    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.plan.plan import PlannedStep

VECTORS_FILE = "weights/vectors.safetensors"


def shift(theta: Tensor, *, strength: float, coefficient: float) -> Tensor:
    """Return what is added to the residual stream of an open row: `coefficient * strength * theta`.

    Args:
        theta: `[..., width]`, raw vectors of one block.
        strength: what coefficient 1.0 stands for, from the artifact.
        coefficient: from the policy.

    Returns:
        float32, of the same shape.
    """
    return theta.float() * (strength * coefficient)


def vector_tensors(artifact: VerifiedArtifact, *, beside: tuple[str, ...] = ()) -> Mapping[str, Tensor]:
    """Return the tensors of the artifact, all that its schedule needs present and of the right shape.

    Args:
        artifact: steering vectors.
        beside: what the method reads beside the vectors: `srv` `[blocks, width]`, `gate_bias` `[blocks]`.

    Raises:
        ArtifactFormatError: names tensors that are missing or of another shape, or a schedule that is not known.
    """
    tensors = artifact.tensors.get(VECTORS_FILE, {})
    shapes = _shapes(artifact.manifest, beside)
    missing = sorted(set(shapes) - set(tensors))
    if missing:
        raise ArtifactFormatError(
            "An artifact of steering vectors lacks tensors.",
            expected=", ".join(shapes),
            found=f"missing {', '.join(missing)}",
            where=VECTORS_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    # Checked here, because a vector of width 1 would broadcast over the residual stream without an error.
    wrong = {name: tuple(tensors[name].shape) for name, shape in shapes.items() if tensors[name].shape != shape}
    if wrong:
        raise ArtifactFormatError(
            "A tensor of an artifact of steering vectors has another shape than the model asks for.",
            expected={name: shapes[name] for name in wrong},
            found=wrong,
            where=VECTORS_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return tensors


def block_schedules(
    step: PlannedStep, manifest: ArtifactManifest, tensors: Mapping[str, Tensor]
) -> dict[int, Schedule]:
    """Return what each steered block of the step adds when, coefficient and strength included.

    Args:
        step: the planned step.
        manifest: of the artifact.
        tensors: what `vector_tensors` returned.

    Raises:
        ArtifactFormatError: a steered block has no vector.
    """
    stated = read_schedule(manifest.params)
    found = {block: _schedule(step, stated, tensors, block) for block in step.blocks}
    empty = [block for block, schedule in found.items() if schedule is None]
    if empty:
        raise ArtifactFormatError(
            "The artifact has no steering vector for blocks that the plan steers.",
            expected="a vector that is not zero",
            found=f"zeros at blocks {empty}",
            where=f"guidance entry `{step.id}`",
            next_step="Remove `blocks` from the policy to use the artifact's calibrated window.",
        )
    return {block: schedule for block, schedule in found.items() if schedule is not None}


def _shapes(manifest: ArtifactManifest, beside: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    stated = read_schedule(manifest.params)
    needed = f"schedule.{stated.kind}"
    if stated.kind != "constant" and needed not in manifest.requires.features:
        raise ArtifactFormatError(
            "The artifact does not require the schedule that it states, so an older reader would misread it.",
            expected=needed,
            found=", ".join(manifest.requires.features),
            where="manifest.json: requires.features",
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    every = (manifest.base.num_blocks, manifest.base.hidden_size)
    names = {
        "constant": ("theta",),
        "by_phase": ("theta_prompt", "theta_last", "theta_decode"),
        "by_step": ("theta_prompt", "theta_last"),
    }[stated.kind]
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, every)
    if stated.steps is not None:
        shapes["theta_steps"] = (stated.steps, *every)
    return shapes | {name: every[:1] if name == "gate_bias" else every for name in beside}


def _schedule(step: PlannedStep, stated: VectorSchedule, tensors: Mapping[str, Tensor], block: int) -> Schedule | None:
    """Return the schedule of one block; None when all its vectors are zero."""

    def added(theta: Tensor) -> Tensor | None:
        if not bool(theta.any()):
            return None
        return shift(theta, strength=float(step.strength), coefficient=float(step.coefficient))

    if stated.kind == "constant":
        vector = added(tensors["theta"][block])
        named = cast("Positions", step.positions)
        rule = named if step.first_steps is None else FirstSteps(step.first_steps)
        return None if vector is None else Constant(vector=vector, positions=rule)
    prompt, last = added(tensors["theta_prompt"][block]), added(tensors["theta_last"][block])
    if stated.kind == "by_phase":
        decode = added(tensors["theta_decode"][block])
        return None if prompt is last is decode is None else ByPhase(prompt=prompt, last=last, decode=decode)
    steps = [added(theta) for theta in tensors["theta_steps"][:, block]]
    while steps and steps[-1] is None:
        steps.pop()
    return None if prompt is last is None and not steps else ByStep(prompt=prompt, last=last, steps=tuple(steps))
