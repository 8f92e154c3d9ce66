"""The network of a critic while it is fitted: on standardised inputs, with a linear start; folded into plain ones after."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steerguard.artifacts.critic_params import CriticParams
from steerguard.critics.safety_value import SafetyValueCritic

LEFT, Z, READ = -3, -2, -1
"""Columns of the inputs behind the states: share of the answer that is left, safety state, log of the tokens read."""
_NEWTON_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Means and standard deviations of what the network reads and foresees.

    States are standardised before they are weighted by what is left of the answer: otherwise a dimension with a large
    mean would say no more than that weight.
    """

    states: tuple[Tensor, Tensor]
    """float32 `[2 * parts * width]` each."""
    left: tuple[float, float]
    z: tuple[float, float]
    read: tuple[float, float]
    to_go: tuple[float, float]

    @classmethod
    def of(cls, inputs: Tensor, z: Tensor, to_go: Tensor) -> Scaling:
        """Measure the scaling of samples.

        Args:
            inputs: as from `critic_inputs`, `[samples, inputs]`.
            z: clipped, `[samples, budgets]`.
            to_go: `[samples]`.
        """
        states = inputs[:, :LEFT] / inputs[:, LEFT, None].clamp(min=1e-6)
        spread = states.std(dim=0)
        return cls(
            states=(states.mean(dim=0), spread.masked_fill(spread < _SMALL, 1.0)),
            left=_moments(inputs[:, LEFT]),
            z=_moments(z),
            read=_moments(inputs[:, READ]),
            to_go=_moments(to_go),
        )

    def inputs(self, inputs: Tensor) -> Tensor:
        """Return standardised inputs; the column of the safety state too."""
        centre, spread = self.states
        out = torch.empty_like(inputs)
        out[:, :LEFT] = (inputs[:, :LEFT] - inputs[:, LEFT, None] * centre) / spread
        for column, (mean, scale) in ((LEFT, self.left), (Z, self.z), (READ, self.read)):
            out[:, column] = (inputs[:, column] - mean) / scale
        return out

    def folded(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights for plain inputs and what is added to the bias, for weights `[outputs, inputs]` in float64."""
        plain = weight.clone()
        plain[:, :LEFT] = weight[:, :LEFT] / self.states[1].double()
        shift = torch.zeros(len(weight), dtype=torch.float64)
        for column, (mean, scale) in ((LEFT, self.left), (Z, self.z), (READ, self.read)):
            plain[:, column] = weight[:, column] / scale
            shift -= plain[:, column] * mean
        plain[:, LEFT] -= plain[:, :LEFT] @ self.states[0].double()
        return plain, shift


class CriticNetwork(nn.Module):
    """The network of `SafetyValueCritic` on standardised inputs and targets.

    Args:
        inputs: how many.
        hidden: units of the hidden layer.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.heads = nn.Linear(hidden, 2)
        self.linear = nn.Linear(inputs, 2, bias=False)
        for weights in (self.heads.weight, self.heads.bias, self.linear.weight):
            nn.init.zeros_(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return both outputs, `[rows, 2]`."""
        out: Tensor = self.heads(self.hidden(inputs).relu()) + self.linear(inputs)
        return out

    @torch.no_grad()
    def start(
        self, inputs: Tensor, z: Tensor, to_go: Tensor, ends_safe: Tensor, scaling: Scaling, *, penalty: float
    ) -> None:
        """Set the linear path in closed form: ridge for the cost-to-go, logistic on z minus that for ending safe.

        Args:
            inputs: standardised, `[samples, inputs]`; the cost-to-go does not depend on z and is fitted without it.
            z: standardised, `[samples, budgets]`.
            to_go: standardised, `[samples]`.
            ends_safe: bool `[samples, budgets]`.
            scaling: of both.
            penalty: L2, on the sum of squared errors.
        """
        seen = inputs.clone()
        seen[:, Z] = 0
        gram = (seen.T @ seen).double()
        gram.diagonal().add_(penalty)
        ridge = torch.linalg.solve(gram, (seen.T @ to_go).double())
        ridge[Z] = 0
        foreseen = (seen.double() @ ridge) * scaling.to_go[1] + scaling.to_go[0]
        margin = z.double() * scaling.z[1] + scaling.z[0] - foreseen[:, None]
        slope, offset = _logistic(margin.flatten(), ends_safe.flatten().double())
        self.linear.weight[1] = ridge.float()
        self.linear.weight[0] = (-slope * scaling.to_go[1] * ridge).float()
        self.linear.weight[0, Z] = slope * scaling.z[1]
        self.heads.bias[0] = slope * (scaling.z[0] - scaling.to_go[0]) + offset

    def groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Return the parameters for the optimiser; only those of the hidden layer and its heads decay."""
        decayed = [self.hidden.weight, self.heads.weight]
        others = [self.hidden.bias, self.heads.bias, self.linear.weight]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

    @torch.no_grad()
    def folded(self, params: CriticParams, scaling: Scaling) -> SafetyValueCritic:
        """Return the critic on plain inputs and targets: the scaling goes into the weights, in float64."""
        hidden, hidden_shift = scaling.folded(self.hidden.weight.double())
        linear, linear_shift = scaling.folded(self.linear.weight.double())
        spread = torch.tensor([1.0, scaling.to_go[1]], dtype=torch.float64)
        centre = torch.tensor([0.0, scaling.to_go[0]], dtype=torch.float64)
        return SafetyValueCritic(
            params=params,
            hidden=hidden.float(),
            hidden_bias=(self.hidden.bias.double() + hidden_shift).float(),
            heads=(self.heads.weight.double() * spread[:, None]).float(),
            heads_bias=((self.heads.bias.double() + linear_shift) * spread + centre).float(),
            linear=(linear * spread[:, None]).float(),
        )


_SMALL = 1e-6


def _moments(values: Tensor) -> tuple[float, float]:
    """Return mean and standard deviation, 1 for a constant."""
    spread = float(values.std())
    return float(values.mean()), spread if spread > _SMALL else 1.0


def _logistic(margin: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return slope and offset of a logistic regression on one feature, by Newton's method with a small penalty."""
    features = torch.stack([margin, torch.ones_like(margin)], dim=1)
    penalty = torch.diag(torch.tensor([1.0, 1e-3], dtype=torch.float64))
    found = torch.zeros(2, dtype=torch.float64)
    for _ in range(_NEWTON_STEPS):
        chances = torch.sigmoid(features @ found)
        gradient = features.T @ (chances - labels) + penalty @ found
        curvature = (features * (chances * (1 - chances))[:, None]).T @ features + penalty
        step = torch.linalg.solve(curvature, gradient)
        found = found - step
        if float(step.abs().max()) < _SMALL:
            break
    return float(found[0]), float(found[1])
