"""What one calibration may come to, against an independent implementation."""

from __future__ import annotations

import pytest
from scipy import stats

from steerguard.artifacts.calibration import calibration_from_scores
from steerguard.artifacts.conformal import (
    chance_of_rate_above,
    conformal_rank,
    exceedance_probabilities,
    rate_upper_bound,
)

CASES = [(99, "0.05"), (274, "0.02"), (1000, "0.1"), (19, "0.05"), (5000, "0.001")]


@pytest.mark.parametrize(("n", "fpr"), CASES)
def test_the_rate_of_one_calibration_is_beta(n, fpr):
    from decimal import Decimal

    k = conformal_rank(n, Decimal(fpr))
    beta = stats.beta(n + 1 - k, k)
    assert rate_upper_bound(n, k) == pytest.approx(beta.ppf(0.95), rel=1e-6)
    for rate in (0.001, 0.01, 0.05, 0.2):
        assert chance_of_rate_above(n, k, rate) == pytest.approx(beta.sf(rate), abs=1e-9)


def test_the_count_in_a_test_half_is_beta_binomial():
    n, k, m = 150, 143, 120
    expected = stats.betabinom(m, n + 1 - k, k).pmf(range(m + 1))
    assert exceedance_probabilities(n, k, m) == pytest.approx(list(expected), abs=1e-10)


@pytest.mark.parametrize(("rate", "chance"), [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (2.0, 0.0)])
def test_rates_at_the_ends_are_certain(rate, chance):
    assert chance_of_rate_above(10, 10, rate) == chance


def test_a_calibration_says_what_its_own_rate_may_be():
    calibration = calibration_from_scores([float(i) for i in range(99)], score="s", source="t")
    assert calibration.likely_rate("0.05") == pytest.approx(stats.beta(5, 95).ppf(0.95), rel=1e-6)
    assert calibration.likely_rate(0.05, confidence=0.5) < 0.05
