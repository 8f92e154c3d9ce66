"""How well a score ranks unfinished answers by how they end: over all answers, and among answers to the same prompt.

Over all answers the prompt alone says much of how an answer ends. A search chooses among answers to one prompt, so what
counts is the share of pairs *of the same prompt* that a score puts in the right order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedPairs:
    """Pairs of answers of which one ends unsafe and the other safe, by prompt."""

    won: Floats
    """`[prompts]`: pairs in which the unsafe one scores higher; ties count half."""
    pairs: Floats
    """`[prompts]`: pairs in all; 0 for a prompt whose answers all end alike."""

    @property
    def auroc(self) -> float:
        """Share of the pairs of all prompts in the right order; nan without a pair."""
        total = float(self.pairs.sum())
        return float(self.won.sum()) / total if total else float("nan")

    @property
    def prompts(self) -> int:
        """How many prompts have a pair."""
        return int((self.pairs > 0).sum())


def ranked_pairs(
    scores: Sequence[float], unsafe: Sequence[bool], prompt_of: Sequence[int], prompts: int
) -> RankedPairs:
    """Compare the scores of answers to the same prompt.

    Args:
        scores: one per answer, higher means that it will rather end unsafe.
        unsafe: whether it did.
        prompt_of: number of its prompt, from 0.
        prompts: how many prompts there are.
    """
    values, ends, of = np.asarray(scores, dtype=np.float64), np.asarray(unsafe, dtype=bool), np.asarray(prompt_of)
    won, pairs = np.zeros(prompts), np.zeros(prompts)
    for prompt in np.unique(of):
        high, low = values[(of == prompt) & ends], values[(of == prompt) & ~ends]
        gaps = high[:, None] - low[None, :]
        won[prompt] = (gaps > 0).sum() + (gaps == 0).sum() / 2
        pairs[prompt] = gaps.size
    return RankedPairs(won=won, pairs=pairs)


def difference_interval(
    first: RankedPairs, second: RankedPairs, *, seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of `first.auroc - second.auroc`; prompts are drawn.

    Args:
        first: of one score.
        second: of another score of the same answers.
        seed: of the draws.
        resamples: how many.

    Raises:
        ValueError: the two are not of the same pairs, or no prompt has one.
    """
    if not np.array_equal(first.pairs, second.pairs):
        raise ValueError("both scores must be of the same answers")
    chosen = first.pairs > 0
    if not chosen.any():
        raise ValueError("no prompt has answers that end differently")
    gained, pairs = (first.won - second.won)[chosen], first.pairs[chosen]
    drawn = np.random.default_rng(seed).integers(0, len(pairs), size=(resamples, len(pairs)))
    differences = gained[drawn].sum(axis=1) / pairs[drawn].sum(axis=1)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)
