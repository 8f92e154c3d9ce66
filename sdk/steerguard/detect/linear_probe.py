"""The linear probe: a score that is linear in the residual stream of a few blocks.

A part of a probe is a block and what is read there: the hidden state at the end of the generation prompt, or the
prompt mean. A block may have both parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.artifacts.probe_params import Over, Part
    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.plan.plan import PlannedDetector

PROBE_FILE = "weights/probe.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProbe:
    """Score = mean over parts of `weight_i . h_i + bias_i`; higher means more likely harmful."""

    id: str
    blocks: tuple[int, ...]
    """Block of each part."""
    over: tuple[Over, ...]
    """Which hidden state of its block each part reads."""
    weight: Tensor
    """float32 `[parts, width]`."""
    bias: Tensor
    """float32 `[parts]`."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Block and what is read there, in the order of the weights."""
        return tuple(zip(self.blocks, self.over, strict=True))

    @property
    def meaning(self) -> str:
        """What the score is, for people; a calibration records it."""
        if set(self.over) == {"end"}:
            return "mean over blocks of weight . h + bias at the end of the generation prompt"
        return "mean over parts of weight . h + bias, with h at the end of the generation prompt or the prompt mean"

    def partial(self, index: int, states: Tensor) -> Tensor:
        """Return the contribution of the i-th part to the score.

        Each row is reduced by itself, so a row's number does not depend on how many rows there are.

        Args:
            index: position in `parts`.
            states: float32 `[rows, width]`, what that part reads.

        Returns:
            float32 `[rows]`.
        """
        weight = self.weight[index].to(states.device)
        bias = self.bias[index].to(states.device)
        return ((states * weight).sum(dim=-1) + bias) / len(self.blocks)

    def score(self, states: Tensor) -> Tensor:
        """Return the score of each row.

        Args:
            states: float32 `[rows, parts, width]`.

        Returns:
            float32 `[rows]`.
        """
        # In the order in which a forward pass meets the parts, because sums of floats depend on it.
        order = sorted(range(len(self.blocks)), key=lambda index: self.blocks[index])
        total = self.partial(order[0], states[:, order[0]])
        for index in order[1:]:
            total = total + self.partial(index, states[:, index])
        return total


def bind_probe(detector: PlannedDetector, artifact: VerifiedArtifact) -> LinearProbe:
    """Return the probe of a planned detector.

    Raises:
        ArtifactFormatError: a tensor is missing or has another shape than the parts and the model's width ask for.
    """
    tensors = artifact.tensors.get(PROBE_FILE, {})
    weight, bias = tensors.get("weight"), tensors.get("bias")
    count, width = len(detector.blocks), artifact.manifest.base.hidden_size
    # Checked here, because a weight of width 1 would broadcast to a wrong score without an error.
    if weight is None or bias is None or weight.shape != (count, width) or bias.shape != (count,):
        raise ArtifactFormatError(
            "A probe needs one weight row and one bias per part.",
            expected=f"weight [{count}, {width}] and bias [{count}]",
            found={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            where=PROBE_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return LinearProbe(
        id=detector.id, blocks=detector.blocks, over=detector.over, weight=weight.float(), bias=bias.float()
    )
