"""The safety value of InferenceGuard: a small network that says how an unfinished answer will probably end.

Source: arXiv 2502.01208, section 4. Its inputs here are the states that the cost model reads anyway, the safety state
and how much has been read; the paper's logits are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from steerguard.artifacts.cost_params import CRITIC_METHOD
from steerguard.artifacts.critic_params import CRITIC_TYPE, CriticParams, critic_params
from steerguard.critics.response_states import bind_cost
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from steerguard.artifacts.verify import VerifiedArtifact
    from steerguard.critics.cost import CostInputs, CostModel

CRITIC_FILE = "weights/critic.safetensors"
"""Where an artifact holds the tensors of its critic."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SafetyValueCritic:
    """Two heads on one hidden layer, with a linear path beside it; implements `Critic`.

        x = r * means, r * newest states, r, z, log of the tokens read        r = share of the answer that is left
        y = heads . relu(hidden . x + hidden_bias) + linear . x + heads_bias

    The first output is the logit of ending with z > 0, the second the cost-to-go. What states say of the cost-to-go
    shrinks with what is left of the answer, so they come in weighted by it.
    """

    params: CriticParams
    hidden: Tensor
    """float32 `[units, inputs]`; standardisation is folded in, here and in the others."""
    hidden_bias: Tensor
    """float32 `[units]`."""
    heads: Tensor
    """float32 `[2, units]`."""
    heads_bias: Tensor
    """float32 `[2]`."""
    linear: Tensor
    """float32 `[2, inputs]`."""
    _placed: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)
    """The tensors by device; a device that is read on gets its copy once."""

    def values(self, inputs: CostInputs, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return how each answer will probably end; see `Critic.values`.

        A safety state outside the range of the training counts as the nearest one within. Of a row with no read token
        both values are `nan`, as its cost is.

        Raises:
            ValueError: `inputs` holds no states.
        """
        if inputs.means is None or inputs.newest is None or inputs.read is None:
            raise ValueError("a critic reads means, newest states and the number of tokens read")
        features = critic_inputs(inputs.means, inputs.newest, z, inputs.read, self.params)
        hidden, hidden_bias, heads, heads_bias, linear = self._on(features.device)
        out = torch.relu(features @ hidden.T + hidden_bias) @ heads.T + features @ linear.T + heads_bias
        out = out.masked_fill((inputs.read.to(out.device) == 0)[:, None], torch.nan)
        return torch.sigmoid(out[:, 0]), out[:, 1]

    def place(self, device: torch.device) -> None:
        """Copy the weights to a device that is read on later."""
        self._on(device)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by the names under which an artifact holds them."""
        return {
            "hidden": self.hidden,
            "hidden_bias": self.hidden_bias,
            "heads": self.heads,
            "heads_bias": self.heads_bias,
            "linear": self.linear,
        }

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._placed:
            self._placed[device] = tuple(tensor.to(device) for tensor in self.tensors().values())
        return self._placed[device]


def critic_inputs(means: Tensor, newest: Tensor, z: Tensor, read: Tensor, params: CriticParams) -> Tensor:
    """Return what a critic reads, float32 `[rows, 2 * parts * width + 3]`, on the device of the states.

    Args:
        means: `[rows, parts, width]`; see `CostInputs`.
        newest: the same.
        z: `[rows]`, the safety state; clipped to the range of the training.
        read: int64 `[rows]`, tokens read; none counts as one.
        params: of the critic.
    """
    counted = read.to(means.device).clamp(min=1).float()
    left = (1 - counted / params.tokens).clamp(min=0)
    clipped = z.to(means.device, torch.float32).clamp(params.lowest_z, params.highest_z)
    states = torch.stack([means.float(), newest.to(means.device).float()], dim=1).flatten(start_dim=1)
    return torch.cat([states * left[:, None], torch.stack([left, clipped, counted.log()], dim=1)], dim=1)


def bind_critic(artifact: VerifiedArtifact) -> tuple[CostModel, SafetyValueCritic]:
    """Return the cost model and the critic of an artifact of the type `critic`.

    Raises:
        ArtifactFormatError: the artifact is of another type or method, a setting is not what a critic may state, or a
            tensor is missing or has another shape than blocks, width and hidden units ask for.
    """
    manifest = artifact.manifest
    if (manifest.type, manifest.method) != (CRITIC_TYPE, CRITIC_METHOD):
        raise ArtifactFormatError(
            "The artifact holds no critic.",
            expected=f"type {CRITIC_TYPE}, method {CRITIC_METHOD}",
            found=f"type {manifest.type}, method {manifest.method}",
            where=manifest.reference,
            next_step="Name an artifact with a critic, or leave the critic out: then the cost so far is used.",
        )
    params, cost = critic_params(manifest.params), bind_cost(artifact)
    inputs = 2 * len(cost.blocks) * manifest.base.hidden_size + 3
    expected = {
        "hidden": (params.hidden, inputs),
        "hidden_bias": (params.hidden,),
        "heads": (2, params.hidden),
        "heads_bias": (2,),
        "linear": (2, inputs),
    }
    tensors: Mapping[str, Tensor] = artifact.tensors.get(CRITIC_FILE, {})
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    # Checked here, because a tensor of one row would broadcast to wrong values without an error.
    if found != expected:
        raise ArtifactFormatError(
            "The tensors of the critic do not fit its blocks and the model's width.",
            expected=expected,
            found=found,
            where=CRITIC_FILE,
            next_step="Rebuild the artifact with `steerguard build`.",
        )
    return cost, SafetyValueCritic(params=params, **{name: tensors[name].float() for name in expected})
