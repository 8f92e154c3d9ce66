"""What a critic is fitted to: roll-outs of both classes, their costs at every block, and samples of unfinished answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.critic_fit import CriticSamples, samples_of
from steerguard.build.recipe_rollouts import RolloutSettings
from steerguard.build.rollout_states import RolloutStates, states_of
from steerguard.build.rollouts import Rollouts, rollouts_of
from steerguard.build.steps import BuildContext
from steerguard.critics.cost import CostModel


@dataclass(frozen=True, slots=True, kw_only=True)
class CostedRollouts:
    """Roll-outs of one class with what was read of them and what they cost."""

    rollouts: Rollouts
    states: RolloutStates
    costs: Tensor
    """float32 `[answers, blocks]`: the cost of each answer up to each block; behind its end, at its end."""

    def samples(self, settings: RolloutSettings, budgets: Tensor, discount: float) -> CriticSamples:
        """Return the unfinished answers that a critic learns from or is measured on; see `samples_of`."""
        return samples_of(
            self.states,
            self.costs,
            generated=self.rollouts.generated,
            hot=self.rollouts.hot,
            prompt_of=self.rollouts.prompt_of,
            budgets=budgets,
            block_tokens=settings.block_tokens,
            discount=discount,
        )


def costed_rollouts(
    context: BuildContext, prompts: PromptSet, settings: RolloutSettings, cost: CostModel, *, weights: str, name: str
) -> CostedRollouts:
    """Return roll-outs with states and costs; answers and states come from the cache where they are there.

    Args:
        context: the build.
        prompts: of one class.
        settings: of the roll-outs.
        cost: reads states.
        weights: weight type that the target runs in.
        name: of the class, for the progress bar.
    """
    rollouts = rollouts_of(context, prompts, settings, weights=weights, step=f"roll-outs: {name}")
    states = states_of(
        context, rollouts, cost.blocks, block_tokens=settings.block_tokens, weights=weights, step=f"states: {name}"
    )
    costs = torch.stack([cost.cost(states.at(block)) for block in range(settings.blocks)], dim=1)
    # An answer that ended at once has no token to be judged; it says nothing and costs nothing.
    return CostedRollouts(rollouts=rollouts, states=states, costs=costs.nan_to_num(nan=0.0))


def together(sets: Sequence[CriticSamples]) -> CriticSamples:
    """Return the samples of several classes as one, with prompts numbered through."""
    first, shifted = 0, []
    for samples in sets:
        shifted.append(replace(samples, prompt_of=samples.prompt_of + first))
        first += int(samples.prompt_of.max()) + 1 if len(samples) else 0
    return CriticSamples(
        **{name: torch.cat([getattr(samples, name) for samples in shifted]) for name in CriticSamples.__slots__}
    )
