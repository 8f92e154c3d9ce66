"""A cost model that reads the generator's own residual stream, averaged over the tokens of the answer so far.

The states are there anyway while an answer is written, so a cost takes one small product per row and no forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from steerguard.artifacts.cost_params import COST_FILE, COST_METHOD, CRITIC_METHOD, cost_params
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.artifacts.cost_params import CostParams
    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.critics.cost import CostInputs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResponseStatesCost:
    """Cost = head(means), float32; one layer is `weight . means + bias`, two have a ReLU between."""

    params: CostParams
    weights: tuple[Tensor, ...]
    """float32 `[outputs, inputs]` per layer; inputs of the first are parts times width, outputs of the last 1."""
    biases: tuple[Tensor, ...]
    """float32 `[outputs]` per layer."""
    _placed: dict[torch.device, tuple[tuple[Tensor, Tensor], ...]] = field(default_factory=dict, init=False, repr=False)
    """Weight and bias per layer by device; a device that is read on gets its copy once."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Decoder blocks that it reads, one per part."""
        return self.params.blocks

    @property
    def threshold(self) -> float:
        """A cost from which on an answer is called harmful; a float32 value from the manifest."""
        return self.params.threshold

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer, float32 `[rows]`, on the device of its means; see `CostModel.cost`.

        Raises:
            ValueError: there are no means, or they are of other parts or another width than the weights.
        """
        means, read = inputs.means, inputs.read
        if means is None or read is None:
            raise ValueError("a cost model of states needs means and read")
        shape = (len(means), len(self.blocks), self._width)
        if means.shape != shape:
            raise ValueError(f"means must be {list(shape)}, not {list(means.shape)}")
        return self.cost_of_means(means).masked_fill(read.to(means.device) == 0, torch.nan)

    def cost_of_means(self, means: Tensor) -> Tensor:
        """Return the cost of each answer, float32 `[rows]`, where every row has a token that was read.

        Args:
            means: float32 `[rows, parts, width]`.
        """
        return apply_head(self._on(means.device), means.float().flatten(start_dim=1))

    def place(self, device: torch.device) -> None:
        """Copy the weights to a device that is read on later, so that no copy is made while an answer is written."""
        self._on(device)

    @property
    def _width(self) -> int:
        return int(self.weights[0].shape[1]) // len(self.blocks)

    def _on(self, device: torch.device) -> tuple[tuple[Tensor, Tensor], ...]:
        if device not in self._placed:
            self._placed[device] = tuple(
                (weight.to(device), bias.to(device)) for weight, bias in zip(self.weights, self.biases, strict=True)
            )
        return self._placed[device]


def apply_head(layers: Sequence[tuple[Tensor, Tensor]], states: Tensor) -> Tensor:
    """Return the output of a head with ReLU between its layers, float32 `[rows]`.

    Args:
        layers: weight `[outputs, inputs]` and bias `[outputs]` of each; the last has one output.
        states: float32 `[rows, inputs of the first layer]`.
    """
    for weight, bias in layers[:-1]:
        states = (states @ weight.T + bias).relu()
    weight, bias = layers[-1]
    # A sum over each row by itself: a matrix product may round a row otherwise beside other rows.
    return (states * weight[0]).sum(dim=1) + bias[0]


def bind_cost(artifact: VerifiedArtifact) -> ResponseStatesCost:
    """Return the cost model of an artifact of type `cost_model` or `critic`.

    Raises:
        ArtifactFormatError: the artifact holds no such cost model, or a tensor is missing, superfluous, not finite or of
            another shape than the parts and the model's width ask for.
    """
    manifest = artifact.manifest
    params = cost_params(manifest)
    if manifest.method not in {COST_METHOD, CRITIC_METHOD}:
        raise ArtifactFormatError(
            "A cost model is of another method than this version reads.",
            expected=f"{COST_METHOD} or {CRITIC_METHOD}",
            found=manifest.method,
            where=f"{manifest.reference}: method",
            next_step="Upgrade steerguard, or use another version of the artifact.",
        )
    tensors = artifact.tensors.get(COST_FILE, {})
    inputs = len(params.blocks) * manifest.base.hidden_size
    if params.layers == 1:
        _check_shapes(tensors, {"weight": (len(params.blocks), manifest.base.hidden_size), "bias": (1,)})
        layers = [(tensors["weight"].reshape(1, inputs), tensors["bias"])]
    else:
        hidden = tuple(tensors["bias_0"].shape)[:1] if "bias_0" in tensors else (1,)
        expected = {
            "weight_0": (*hidden, inputs),
            "bias_0": hidden,
            "weight_1": (1, *hidden),
            "bias_1": (1,),
        }
        _check_shapes(tensors, expected)
        layers = [(tensors["weight_0"], tensors["bias_0"]), (tensors["weight_1"], tensors["bias_1"])]
    return ResponseStatesCost(
        params=params,
        weights=tuple(weight.float() for weight, _ in layers),
        biases=tuple(bias.float() for _, bias in layers),
    )


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse other tensors than expected: a width of 1 would broadcast to a wrong cost without an error."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != dict(expected):
        raise ArtifactFormatError(
            "The tensors of a cost model do not fit its parts and layers.",
            expected=dict(expected),
            found=found,
            where=COST_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ArtifactFormatError(
                "A tensor of a cost model is not finite.",
                expected="finite values",
                found="NaN or infinity",
                where=f"{COST_FILE}: {name}",
                next_step="Rebuild the artifact with `steerguard build`.",
            )
