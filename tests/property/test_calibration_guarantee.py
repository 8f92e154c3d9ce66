"""Thresholds as rates keep their finite-sample promise: by enumeration of every draw, not by simulation."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from steerguard.artifacts.calibration import calibration_from_scores, to_float32
from steerguard.artifacts.conformal import conformal_rank, exceedance_probabilities, rate_upper_bound
from steerguard.errors import CalibrationError

SCORES = st.floats(min_value=-1e6, max_value=1e6, width=32, allow_subnormal=False)
# A few values only, so that ties are the rule.
TIED = st.sampled_from([-1.5, -1.0, 0.0, 0.25, 2.0])
RATES = st.decimals(min_value="0.001", max_value="0.999", places=3)


def calibrated(scores):
    return calibration_from_scores(scores, score="s", source="test")


def fires(scores, new, rate):
    """Whether a new score reaches the threshold of a calibration; one that cannot bound the rate counts as silent."""
    calibration = calibrated(scores)
    try:
        return to_float32(new) >= calibration.threshold(rate)
    except CalibrationError:
        return False


@given(st.one_of(st.lists(SCORES, min_size=2, max_size=40), st.lists(TIED, min_size=2, max_size=40)), RATES)
@example([0.0, 0.0], Decimal("0.5"))
@example([1.0, 1.0, 1.0, 2.0], Decimal("0.25"))
def test_whichever_of_the_scores_is_the_new_one_at_most_the_asked_share_of_draws_fires(scores, rate):
    fired = sum(fires(scores[:i] + scores[i + 1 :], scores[i], rate) for i in range(len(scores)))
    assert Fraction(fired, len(scores)) <= Fraction(rate)


@given(st.lists(SCORES, min_size=2, max_size=40, unique=True), RATES)
def test_without_ties_the_share_is_the_largest_multiple_of_one_over_n_plus_one(scores, rate):
    assume(len({to_float32(score) for score in scores}) == len(scores))
    fired = sum(fires(scores[:i] + scores[i + 1 :], scores[i], rate) for i in range(len(scores)))
    assert fired == math.floor(Fraction(rate) * len(scores))


@given(st.lists(st.one_of(SCORES, TIED), min_size=1, max_size=60), RATES, st.randoms(use_true_random=False))
def test_the_order_of_the_scores_does_not_matter(scores, rate, random):
    shuffled = random.sample(scores, len(scores))
    assume(Fraction(rate) * (len(scores) + 1) >= 1)
    assert calibrated(scores) == calibrated(shuffled)
    assert calibrated(scores).threshold(rate) == calibrated(shuffled).threshold(rate)


@given(st.lists(SCORES, min_size=1, max_size=60), RATES, RATES)
def test_a_larger_rate_never_has_a_higher_threshold(scores, one, other):
    low, high = sorted((one, other))
    assume(Fraction(low) * (len(scores) + 1) >= 1)
    assert calibrated(scores).threshold(high) <= calibrated(scores).threshold(low)


@given(st.lists(SCORES, min_size=1, max_size=60), RATES, st.data())
def test_raising_one_score_never_lowers_the_threshold(scores, rate, data):
    assume(Fraction(rate) * (len(scores) + 1) >= 1)
    index = data.draw(st.integers(0, len(scores) - 1))
    raised = [*scores[:index], scores[index] + abs(data.draw(SCORES)), *scores[index + 1 :]]
    assert calibrated(raised).threshold(rate) >= calibrated(scores).threshold(rate)


@given(st.integers(1, 30), TIED, RATES)
def test_scores_that_are_all_equal_never_fire_on_the_same_score(n, score, rate):
    assert not fires([score] * n, score, rate)


@given(RATES)
def test_the_smallest_calibration_for_a_rate_has_one_over_the_rate_minus_one_scores(rate):
    n = max(1, math.ceil(1 / Fraction(rate)) - 1)
    calibration = calibrated([float(i) for i in range(n)])
    assert calibration.threshold(rate) > min(map(float, calibration.benign_scores))
    assert calibration.smallest_fpr >= Fraction(1, n + 1)
    if n > 1:
        with pytest.raises(CalibrationError, match="cannot bound"):
            calibrated([float(i) for i in range(n - 1)]).threshold(rate)


@given(st.integers(1, 5000), RATES, st.integers(1, 6))
def test_the_threads_decimal_context_changes_neither_rank_nor_smallest_rate(n, rate, precision):
    calibration = calibrated([float(i) for i in range(min(n, 200))])
    plain = conformal_rank(n, rate), calibration.smallest_fpr
    with localcontext(Context(prec=precision)):
        assert (conformal_rank(n, rate), calibration.smallest_fpr) == plain


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_number_of_exceedances_over_all_splits_is_beta_binomial(n, m, data):
    k = data.draw(st.integers(1, n))
    counted = Counter(
        sum(i > sorted(chosen)[k - 1] for i in range(n + m) if i not in chosen)
        for chosen in combinations(range(n + m), n)
    )
    whole = math.comb(n + m, n)
    for count, probability in enumerate(exceedance_probabilities(n, k, m)):
        assert probability == pytest.approx(counted[count] / whole, abs=1e-12)


@given(st.integers(10, 400), st.integers(1, 400), RATES)
def test_the_expected_rate_of_a_split_is_at_most_the_asked_one(n, m, rate):
    k = conformal_rank(n, rate)
    assume(k <= n)
    probabilities = exceedance_probabilities(n, k, m)
    assert math.fsum(probabilities) == pytest.approx(1.0, abs=1e-9)
    mean = math.fsum(count * probability for count, probability in enumerate(probabilities)) / m
    assert mean == pytest.approx((n + 1 - k) / (n + 1), abs=1e-9)
    assert mean <= float(rate) + 1e-9


@given(st.integers(20, 300), RATES, st.floats(0.5, 0.999))
def test_more_confidence_never_lowers_the_bound_on_the_rate(n, rate, confidence):
    k = conformal_rank(n, rate)
    assume(k <= n)
    assert rate_upper_bound(n, k, confidence) >= rate_upper_bound(n, k, 0.5) - 1e-12
