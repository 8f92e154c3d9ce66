"""The linear probe: a score that is linear in the residual stream of a few blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.detect.probe import PROBE_FILE, Probe
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.plan.plan import PlannedDetector


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProbe(Probe):
    """Score = mean over parts of `weight_i . h_i + bias_i`; higher means more likely harmful."""

    weight: Tensor
    """float32 `[parts, width]`."""
    bias: Tensor
    """float32 `[parts]`."""

    @property
    def meaning(self) -> str:
        """What the score is, for people; a calibration records it."""
        if set(self.over) == {"end"}:
            return "mean over blocks of weight . h + bias at the end of the generation prompt"
        return "mean over parts of weight . h + bias, with h at the end of the generation prompt or the prompt mean"

    def partial(self, index: int, states: Tensor) -> Tensor:
        """Return `(weight_i . h + bias_i) / parts`, float32 `[rows]`; see `Probe.partial`."""
        weight = self.weight[index].to(states.device)
        bias = self.bias[index].to(states.device)
        return ((states * weight).sum(dim=-1) + bias) / len(self.blocks)


def bind_linear_probe(detector: PlannedDetector, artifact: VerifiedArtifact) -> LinearProbe:
    """Return the linear probe of a planned detector.

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
