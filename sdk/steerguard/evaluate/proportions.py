"""Rates with their uncertainty, and the area under the ROC curve. Pure Python."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steerguard.artifacts.conformal import rate_upper_bound
from steerguard.artifacts.wilson import wilson_interval
from steerguard.errors import EvaluationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """A count out of n with its 95 % Wilson score interval."""

    count: int
    n: int

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Proportion:
        """Count the true outcomes."""
        seen = list(outcomes)
        return cls(count=sum(seen), n=len(seen))

    @property
    def rate(self) -> float:
        """The share in [0, 1]; 0 for an empty sample."""
        return self.count / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (1927), which stays inside [0, 1] and is sound at 0 and n."""
        return wilson_interval(self.count, self.n)

    def as_strings(self) -> dict[str, int | str]:
        """Return the figure with decimal strings, as manifests and `benchmarks.json` hold it."""
        low, high = self.interval
        return {
            "count": self.count,
            "n": self.n,
            "rate": f"{self.rate:.4f}",
            "wilson_low": f"{low:.4f}",
            "wilson_high": f"{high:.4f}",
        }


def clopper_pearson_upper(count: int, n: int, confidence: float) -> float:
    """Return the one-sided upper bound of a rate by Clopper and Pearson (1934).

    It is the largest rate at which so few outcomes, `count` or fewer of `n`, still have the probability
    `1 - confidence`: the `confidence` quantile of Beta(count + 1, n - count). Whatever the true rate is, the bound lies
    below it in at most a share `1 - confidence` of all samples of independent draws.

    Args:
        count: outcomes that were seen, 0 … n.
        n: independent draws, at least 1.
        confidence: between 0 and 1.

    Raises:
        EvaluationError: the count is no count out of n, or the confidence is not between 0 and 1.
    """
    if n < 1 or not 0 <= count <= n or not 0.0 < confidence < 1.0:
        raise EvaluationError(
            "A rate cannot be bounded from these numbers.",
            expected="0 to n outcomes of n draws, n at least 1, and a confidence between 0 and 1",
            found=f"{count} of {n}, confidence {confidence}",
        )
    # The rate of a calibration has the distribution Beta(n + 1 - k, k), which is this one at k = n - count.
    return 1.0 if count == n else rate_upper_bound(n, n - count, confidence)


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Return the chance that a positive scores above a negative, ties counted half.

    Args:
        positive: scores of the class that should score high; not empty.
        negative: scores of the other class; not empty.

    Raises:
        EvaluationError: one class is empty.
    """
    if not positive or not negative:
        raise EvaluationError(
            "An AUROC needs scores of both classes.",
            expected="at least one of each",
            found=f"{len(positive)} positive, {len(negative)} negative",
        )
    below = sorted(negative)
    wins = sum(bisect_left(below, score) + bisect_right(below, score) for score in positive)
    return wins / (2 * len(positive) * len(below))
