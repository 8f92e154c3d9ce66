"""The linear probe: a score that is linear in the residual stream of a few blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.plan.plan import PlannedDetector

PROBE_FILE = "weights/probe.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProbe:
    """Score = mean over blocks of `weight_i . h_i + bias_i`; higher means more likely harmful."""

    id: str
    blocks: tuple[int, ...]
    weight: Tensor
    """float32 `[blocks, width]`."""
    bias: Tensor
    """float32 `[blocks]`."""

    def partial(self, index: int, states: Tensor) -> Tensor:
        """Return the contribution of the i-th block to the score.

        Each row is reduced by itself, so a row's number does not depend on how many rows there are.

        Args:
            index: position in `blocks`.
            states: float32 `[rows, width]` at the end of the generation prompt.

        Returns:
            float32 `[rows]`.
        """
        weight = self.weight[index].to(states.device)
        bias = self.bias[index].to(states.device)
        return ((states * weight).sum(dim=-1) + bias) / len(self.blocks)

    def score(self, states: Tensor) -> Tensor:
        """Return the score of each row.

        Args:
            states: float32 `[rows, blocks, width]`.

        Returns:
            float32 `[rows]`.
        """
        parts = [self.partial(index, states[:, index]) for index in range(len(self.blocks))]
        return torch.stack(parts).sum(dim=0)


def bind_probe(detector: PlannedDetector, artifact: VerifiedArtifact) -> LinearProbe:
    """Return the probe of a planned detector.

    Raises:
        ArtifactFormatError: a tensor is missing or has another shape than the blocks and the model's width ask for.
    """
    tensors = artifact.tensors.get(PROBE_FILE, {})
    weight, bias = tensors.get("weight"), tensors.get("bias")
    count, width = len(detector.blocks), artifact.manifest.base.hidden_size
    # Checked here, because a weight of width 1 would broadcast to a wrong score without an error.
    if weight is None or bias is None or weight.shape != (count, width) or bias.shape != (count,):
        raise ArtifactFormatError(
            "A probe needs one weight row and one bias per block.",
            expected=f"weight [{count}, {width}] and bias [{count}]",
            found={name: tuple(tensor.shape) for name, tensor in tensors.items()},
            where=PROBE_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return LinearProbe(id=detector.id, blocks=detector.blocks, weight=weight.float(), bias=bias.float())
