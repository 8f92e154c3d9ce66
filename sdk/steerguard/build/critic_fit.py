"""Fit a critic to roll-outs: samples at every open block, labels by how the answer ended, one network with two heads.

Both targets are Monte-Carlo: how the answer that was sampled from here did end, and what was added to its cost until
then. No model here, only states and costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steerguard.artifacts.critic_params import CriticParams
from steerguard.build.critic_network import CriticNetwork, Scaling, Z
from steerguard.build.recipe_critic import CriticFit
from steerguard.build.rollout_states import RolloutStates
from steerguard.critics.safety_value import SafetyValueCritic, critic_inputs
from steerguard.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSamples:
    """Unfinished answers at the ends of blocks, each with the safety state under several budgets."""

    means: Tensor
    """As `CostInputs.means`, float32 `[samples, parts, width]`."""
    newest: Tensor
    """As `CostInputs.newest`."""
    read: Tensor
    """As `CostInputs.read`."""
    z: Tensor
    """float32 `[samples, budgets]`."""
    ends_safe: Tensor
    """bool `[samples, budgets]`: whether the safety state at the end of the answer is positive."""
    cost: Tensor
    """float32 `[samples]`, the cost so far."""
    to_go: Tensor
    """float32 `[samples]`, what is added to the cost from here to the end."""
    prompt_of: Tensor
    """int64 `[samples]`."""
    block: Tensor
    """int64 `[samples]`, number of the block at whose end the sample was taken, from 0."""

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.read)

    def chosen(self, chosen: Tensor) -> CriticSamples:
        """Return some samples, by a mask or by places."""
        return CriticSamples(**{name: getattr(self, name)[chosen] for name in self.__slots__})


def rolled_states(costs: Tensor, budgets: Tensor, discount: float) -> Tensor:
    """Return the safety state at the end of each block, float32 `[answers, blocks, budgets]`.

    Args:
        costs: float32 `[answers, blocks]`, the cost of each answer up to each block; behind its end, at its end.
        budgets: float32 `[budgets]`, d.
        discount: gamma.
    """
    z = budgets.expand(len(costs), len(budgets))
    before, states = torch.zeros(len(costs)), []
    for block in range(costs.shape[1]):
        z = (z - (costs[:, block] - before)[:, None]) / discount
        before = costs[:, block]
        states.append(z)
    return torch.stack(states, dim=1)


def samples_of(
    states: RolloutStates,
    costs: Tensor,
    *,
    generated: Tensor,
    hot: Tensor,
    prompt_of: Tensor,
    budgets: Tensor,
    block_tokens: int,
    discount: float,
) -> CriticSamples:
    """Return every answer at the end of every block behind which it goes on, without blocks inside hot beginnings.

    Args:
        states: of the answers.
        costs: float32 `[answers, blocks]`, as in `rolled_states`.
        generated: int64 `[answers]`, tokens of each answer with the end of its turn.
        hot: int64 `[answers]`, how many first tokens were drawn hotter.
        prompt_of: int64 `[answers]`.
        budgets: float32 `[budgets]`.
        block_tokens: tokens of a block.
        discount: gamma.
    """
    ends = block_tokens * torch.arange(1, costs.shape[1] + 1)
    is_open = (ends < generated[:, None]) & (ends >= hot[:, None])
    answer, block = torch.nonzero(is_open, as_tuple=True)
    z = rolled_states(costs, budgets, discount)
    # An answer that ended early ends in the block of its end, and its clock stops there.
    last = ((generated - 1) // block_tokens).clamp(min=0)
    terminal = z[torch.arange(len(z)), last]
    return CriticSamples(
        means=states.means[answer, block],
        newest=states.newest[answer, block].float(),
        read=states.read[answer, block],
        z=z[answer, block],
        ends_safe=terminal[answer] > 0,
        cost=costs[answer, block],
        to_go=costs[answer, -1] - costs[answer, block],
        prompt_of=prompt_of[answer],
        block=block,
    )


def fit_critic(samples: CriticSamples, params: CriticParams, fit: CriticFit, *, seed: int) -> SafetyValueCritic:
    """Fit the network: cross entropy of ending safe plus squared error of the cost-to-go, both against what happened.

    The linear path starts as a ridge regression of the cost-to-go, and as a logistic one of ending safe on z minus that.
    Each time a sample is shown it has the safety state of one budget, drawn anew.

    Args:
        samples: at least two.
        params: the settings of the critic; their range of z is where inputs are clipped.
        fit: how.
        seed: of initial weights, order and budgets; the generator of the process is left as it was.

    Raises:
        BuildError: no sample ends safe or none unsafe, or the fit is not finite.
    """
    share = float(samples.ends_safe.float().mean())
    if not 0 < share < 1:
        raise BuildError(
            "There is nothing to learn: all answers end alike.",
            where="artifact.budgets",
            expected="answers that end within a budget, and answers that do not",
            found=f"{share:.0%} of {samples.ends_safe.numel()} end within it",
            next_step="widen artifact.budgets, or raise the roll-outs",
        )
    z = samples.z.clamp(params.lowest_z, params.highest_z)
    inputs = critic_inputs(samples.means, samples.newest, z[:, 0], samples.read, params)
    scaling = Scaling.of(inputs, z, samples.to_go)
    shown, z = scaling.inputs(inputs), (z - scaling.z[0]) / scaling.z[1]
    to_go = (samples.to_go - scaling.to_go[0]) / scaling.to_go[1]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        network = CriticNetwork(shown.shape[1], fit.hidden)
        network.start(shown, z, to_go, samples.ends_safe, scaling, penalty=fit.penalty)
        optimiser = torch.optim.AdamW(network.groups(fit.weight_decay), lr=fit.learning_rate)
        steps = fit.epochs * -(-len(samples) // fit.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(fit.epochs):
            for rows in torch.split(torch.randperm(len(samples)), fit.batch_size):
                budget = torch.randint(z.shape[1], (len(rows),))
                batch = shown[rows].clone()
                batch[:, Z] = z[rows, budget]
                out = network(batch)
                safe = samples.ends_safe[rows, budget].float()
                loss = nn.functional.binary_cross_entropy_with_logits(out[:, 0], safe)
                loss = loss + nn.functional.mse_loss(out[:, 1], to_go[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
                optimiser.step()
                schedule.step()
    if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        raise BuildError(
            "The critic's weights are not finite.",
            where="artifact.fit",
            expected="finite weights",
            found="NaN or infinity",
            next_step="lower artifact.fit.learning_rate",
        )
    return network.folded(params, scaling)
