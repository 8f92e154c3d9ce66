"""Figures that the build of a critic measures: how it and the running cost rank unfinished answers, by length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerguard.build.critic_fit import CriticSamples, fit_critic
from steerguard.build.critic_measures import RankedPairs, difference_interval, ranked_pairs
from steerguard.build.probes import spread_over_folds
from steerguard.build.recipe_critic import CriticFit
from steerguard.critics.cost import CostInputs
from steerguard.critics.safety_value import SafetyValueCritic
from steerguard.evaluate.proportions import auroc


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How critic and running cost rank the answers that are unfinished at the end of one block, under one budget."""

    tokens: int
    """Generated tokens at that moment."""
    answers: int
    unsafe: int
    """How many of them end outside the budget."""
    critic_pooled: float
    cost_pooled: float
    critic: RankedPairs
    cost: RankedPairs

    def difference(self, seed: int) -> tuple[float, float]:
        """Return the 95 % interval of critic minus running cost, within prompts."""
        return difference_interval(self.critic, self.cost, seed=seed)


def foreseen(critic: SafetyValueCritic, samples: CriticSamples) -> Tensor:
    """Return the probability of ending safe under each budget, float32 `[samples, budgets]`."""
    inputs = CostInputs(means=samples.means, newest=samples.newest, read=samples.read)
    return torch.stack([critic.values(inputs, z)[0] for z in samples.z.T], dim=1)


def foreseen_out_of_fold(
    samples: CriticSamples, like: SafetyValueCritic, fit: CriticFit, *, folds: int, seed: int
) -> Tensor:
    """Return the same from critics that saw no answer to the prompt of a sample.

    Args:
        samples: what the critic was fitted to.
        like: the critic; its settings are those of the others.
        fit: how they are fitted.
        folds: number of folds, by prompt.
        seed: of folds and fits.
    """
    fold_of = spread_over_folds(int(samples.prompt_of.max()) + 1, folds, seed)[samples.prompt_of]
    found = torch.empty_like(samples.z)
    for fold in range(folds):
        left_out = fold_of == fold
        if bool(left_out.any()):
            critic = fit_critic(samples.chosen(~left_out), like.params, fit, seed=seed)
            found[left_out] = foreseen(critic, samples.chosen(left_out))
    return found


def rankings(samples: CriticSamples, ends_safe: Tensor, *, budget: int, block_tokens: int) -> Iterator[Ranking]:
    """Yield a ranking for every block at whose end unfinished answers of one prompt end both ways.

    Args:
        samples: unfinished answers.
        ends_safe: float32 `[samples, budgets]`, what the critic foresees.
        budget: which one.
        block_tokens: tokens of a block.
    """
    prompts = int(samples.prompt_of.max()) + 1
    for block in sorted(set(samples.block.tolist())):
        at = samples.block == block
        unsafe = (~samples.ends_safe[at, budget]).tolist()
        of = samples.prompt_of[at].tolist()
        scores = (1 - ends_safe[at, budget].double()).tolist(), samples.cost[at].tolist()
        pairs = [ranked_pairs(one, unsafe, of, prompts) for one in scores]
        if pairs[0].prompts == 0:
            continue
        pooled = [
            auroc(
                [score for score, bad in zip(one, unsafe, strict=True) if bad],
                [score for score, bad in zip(one, unsafe, strict=True) if not bad],
            )
            for one in scores
        ]
        yield Ranking(
            tokens=(block + 1) * block_tokens,
            answers=len(unsafe),
            unsafe=sum(unsafe),
            critic_pooled=pooled[0],
            cost_pooled=pooled[1],
            critic=pairs[0],
            cost=pairs[1],
        )


def ranking_figures(ranking: Ranking, *, how: str, weights: str) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of the card for one length.

    Args:
        ranking: at that length.
        how: what was measured on.
        weights: weight type of the model.
    """
    where = f"unfinished answers after {ranking.tokens} tokens, {how}"
    shared = {"set": where, "n": ranking.answers, "n_unsafe": ranking.unsafe, "weights": weights}
    pairs = f"{int(ranking.critic.pairs.sum())} pairs in {ranking.critic.prompts} prompts"
    for name, title, within, pooled in (
        ("critic", "critic", ranking.critic.auroc, ranking.critic_pooled),
        ("running_cost", "running cost", ranking.cost.auroc, ranking.cost_pooled),
    ):
        yield {
            "id": f"{name}_within_{ranking.tokens}",
            "title": f"AUROC of the {title} within a prompt, {pairs}",
            "value": f"{within:.4f}",
            **shared,
        }
        yield {
            "id": f"{name}_pooled_{ranking.tokens}",
            "title": f"AUROC of the {title}, pooled",
            "value": f"{pooled:.4f}",
            **shared,
        }
