"""The linear probe: a score that is linear in the residual stream of a few blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steerguard.detect.probe import PROBE_FILE, Probe
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    import torch
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
    _placed: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    """Weight and bias by device; a device that is read on gets its copy once."""

    @property
    def meaning(self) -> str:
        """What the score is, for people; a calibration records it."""
        if set(self.over) == {"end"}:
            return "mean over blocks of weight . h + bias at the end of the generation prompt"
        return "mean over parts of weight . h + bias, with h at the end of the generation prompt or the prompt mean"

    def partial(self, index: int, states: Tensor) -> Tensor:
        """Return `(weight_i . h + bias_i) / parts`, float32 `[rows]`; see `Probe.partial`."""
        weight, bias = self._on(states.device)
        return ((states * weight[index]).sum(dim=-1) + bias[index]) / len(self.blocks)

    def place(self, device: torch.device) -> None:
        """Copy the weights to a device that is read on later; see `Probe.place`."""
        self._on(device)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._placed:
            self._placed[device] = (self.weight.to(device), self.bias.to(device))
        return self._placed[device]


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
