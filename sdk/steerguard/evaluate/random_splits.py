"""Does a calibration keep its promise: many random splits of benign scores into a calibration and a test half.

Given the pool, splits are independent draws, and without ties the number of test scores at or above the threshold is
exactly beta-binomial (`artifacts.conformal`); ties only lower it. So the share of splits above any rate may exceed the
beta-binomial tail by sampling error of the splits alone, which the inequality of Dvoretzky, Kiefer and Wolfowitz
(Massart 1990, one-sided) bounds for all rates at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import NormalDist

from steerguard.artifacts.calibration import Calibration, float32_text, to_float32
from steerguard.artifacts.conformal import conformal_rank, exceedance_probabilities
from steerguard.errors import CalibrationError
from steerguard.evaluate.proportions import Proportion

_Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """What the random splits of one pool came to at one asked rate."""

    fpr: str
    n: int
    """Calibration scores per split."""
    m: int
    """Test scores per split."""
    counts: tuple[int, ...]
    """Per split the number of test scores that reach the threshold."""
    tail: tuple[float, ...]
    """For c = 0 … m the largest chance, by the guarantee, that more than c of the m test scores do."""
    alpha: float
    """Chance of a false alarm in `holds` when the guarantee is exact."""

    @property
    def mean_rate(self) -> float:
        """Mean realised rate over the splits."""
        return sum(self.counts) / (len(self.counts) * self.m)

    @property
    def mean_interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean over splits of this pool."""
        low = self._least_mean(_Z95)
        return low, 2 * self.mean_rate - low

    @property
    def allowed_mean(self) -> float:
        """The largest mean rate that the guarantee allows; never above the asked rate."""
        return math.fsum(self.tail) / self.m

    @property
    def tolerance(self) -> float:
        """By how much the share of splits may exceed the tail anywhere, with chance `alpha` / 2 at most."""
        return math.sqrt(math.log(2 / self.alpha) / (2 * len(self.counts)))

    @property
    def largest_excess(self) -> float:
        """The largest difference over all rates between the share of splits above it and the tail; may be negative."""
        return max(self.share_above(count) - self.tail[count] for count in range(self.m + 1))

    @property
    def holds(self) -> bool:
        """Whether the realised rates exceed the asked one no more often than the guarantee allows."""
        return self._least_mean(NormalDist().inv_cdf(1 - self.alpha / 2)) <= float(self.fpr) and (
            self.largest_excess <= self.tolerance
        )

    def _least_mean(self, deviations: float) -> float:
        splits, mean = len(self.counts), self.mean_rate
        variance = sum((count / self.m - mean) ** 2 for count in self.counts) / max(1, splits - 1)
        return mean - deviations * math.sqrt(variance / splits)

    def share_above(self, count: int) -> float:
        """Return the share of splits in which more than `count` test scores reach the threshold."""
        return sum(one > count for one in self.counts) / len(self.counts)

    def above_asked(self) -> tuple[Proportion, float]:
        """Return how many splits realise more than the asked rate, and the largest chance of that."""
        limit = math.floor(Decimal(self.fpr) * self.m)
        return Proportion.of(count > limit for count in self.counts), self.tail[limit]

    def quantiles(
        self, levels: Sequence[float] = (0.5, 0.9, 0.95, 0.99)
    ) -> list[tuple[float, float, Proportion, float]]:
        """Return (level, rate that the guarantee keeps it under, splits above that rate, largest chance of that)."""
        found = []
        for level in levels:
            count = next(count for count in range(self.m + 1) if self.tail[count] <= 1 - level + 1e-12)
            found.append((level, count / self.m, Proportion.of(one > count for one in self.counts), self.tail[count]))
        return found


def split_reports(
    scores: Sequence[float], rates: Sequence[str], *, splits: int = 500, seed: int | str = 0, alpha: float = 0.01
) -> list[SplitReport]:
    """Split a pool of scores into halves many times, and threshold each test half with its calibration half.

    Args:
        scores: benign scores, finite; the calibration half is the larger one when their number is odd.
        rates: asked false-positive rates as decimal strings; those that a half cannot bound are left out.
        splits: how many random splits, the same ones for every rate.
        seed: of the splits.
        alpha: chance of a false alarm per report.

    Raises:
        CalibrationError: fewer than two scores.
    """
    if len(scores) < 2:
        raise CalibrationError("A split needs scores on both sides.", expected="at least 2 scores", found=len(scores))
    pool = sorted(to_float32(score) for score in scores)
    texts = [float32_text(score) for score in pool]
    m = len(pool) // 2
    n = len(pool) - m
    ranks = {rate: conformal_rank(n, Decimal(rate)) for rate in rates}
    counts: dict[str, list[int]] = {rate: [] for rate, k in ranks.items() if k <= n}
    generator = random.Random(seed)  # noqa: S311 - a reproducible split, not a secret
    for _ in range(splits):
        test = set(generator.sample(range(len(pool)), m))
        # Sorted and finite already: validating each of the many calibrations would take most of the time.
        calibration = Calibration.model_construct(
            kind="split_conformal",
            score="",
            benign_scores=tuple(text for index, text in enumerate(texts) if index not in test),
            n=n,
            source="",
        )
        for rate, found in counts.items():
            threshold = calibration.threshold(rate)
            found.append(sum(pool[index] >= threshold for index in test))
    return [
        SplitReport(fpr=rate, n=n, m=m, counts=tuple(found), tail=_tail(n, ranks[rate], m), alpha=alpha)
        for rate, found in counts.items()
    ]


def _tail(n: int, k: int, m: int) -> tuple[float, ...]:
    """Return P(count > c) for c = 0 … m, summed from the far end so that small chances keep their digits."""
    tail = [0.0] * (m + 1)
    probabilities = exceedance_probabilities(n, k, m)
    for count in range(m - 1, -1, -1):
        tail[count] = tail[count + 1] + probabilities[count + 1]
    return tuple(tail)
