"""The arithmetic behind thresholds as false-positive rates: ranks, and what one calibration may come to.

With n exchangeable benign scores and a threshold just above the k-th smallest, the chance that one more score fires is
at most 1 - k/(n + 1), on average over calibrations. The rate of *one* calibration is a random number: for scores without
ties it has the distribution Beta(n + 1 - k, k) (Vovk, Conditional validity of inductive conformal predictors, ACML 2012;
Angelopoulos and Bates, arXiv 2107.07511, section 3.2), and the number of m further scores that fire is beta-binomial.
Ties only lower both. Pure Python, exact ranks; probabilities are computed in logarithms.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

_BISECTIONS = 60


def conformal_rank(n: int, fpr: Decimal | Fraction) -> int:
    """Return k = ceil((n + 1)(1 - fpr)) in exact arithmetic, whatever the thread's decimal context is.

    Args:
        n: number of calibration scores, at least 1.
        fpr: the asked rate, between 0 and 1.

    Returns:
        The rank, counted from 1; above n when n scores cannot bound so small a rate.
    """
    return math.ceil((n + 1) * (1 - Fraction(fpr)))


def exceedance_probabilities(n: int, k: int, m: int) -> tuple[float, ...]:
    """Return for c = 0 … m the chance that c of m further scores lie above the k-th smallest of n.

    Exact for any random split of n + m distinct numbers into n and m, and for independent draws without ties.

    Args:
        n: number of calibration scores.
        k: rank of the threshold, 1 … n.
        m: number of further scores.
    """
    above = n + 1 - k
    whole = _log_choose(n + m, n)
    return tuple(
        math.exp(_log_choose(above + count - 1, count) + _log_choose(n + m - above - count, m - count) - whole)
        for count in range(m + 1)
    )


def chance_of_rate_above(n: int, k: int, rate: float) -> float:
    """Return the chance that the false-positive rate of one calibration exceeds `rate`.

    P(Beta(n + 1 - k, k) > x) is the chance that a binomial of n trials at x stays below n + 1 - k.

    Args:
        n: number of calibration scores.
        k: rank of the threshold, 1 … n.
        rate: between 0 and 1.
    """
    if not 0.0 < rate < 1.0:
        return 1.0 if rate <= 0.0 else 0.0
    inside, outside = math.log(rate), math.log1p(-rate)
    return min(
        1.0,
        math.fsum(
            math.exp(_log_choose(n, count) + count * inside + (n - count) * outside) for count in range(n + 1 - k)
        ),
    )


def rate_upper_bound(n: int, k: int, confidence: float = 0.95) -> float:
    """Return the rate that one calibration stays under with that confidence.

    Args:
        n: number of calibration scores.
        k: rank of the threshold, 1 … n.
        confidence: chance that the true rate is at most the returned one, between 0 and 1.
    """
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if chance_of_rate_above(n, k, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return high


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
