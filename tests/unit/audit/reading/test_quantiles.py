from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steerguard.audit.reading.quantiles import ABSOLUTE_ERROR, GREATEST, RELATIVE_ERROR, Quantiles

NUMBERS = st.floats(-GREATEST, GREATEST, allow_nan=False) | st.integers(-(10**15), 10**15).map(float)


def gathered(numbers):
    quantiles = Quantiles()
    for number in numbers:
        quantiles.add(number)
    return quantiles


@given(st.lists(NUMBERS, min_size=1, max_size=200), st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.95, 0.99, 1.0]))
@example([-1.0, 1.0], 0.5)
@example([0.0, 1e-10, -1e-10], 0.5)
@example([GREATEST], 1.0)
def test_a_quantile_is_off_by_at_most_the_stated_error(numbers, share):
    exact = sorted(numbers)[max(1, math.ceil(share * len(numbers))) - 1]
    allowed = RELATIVE_ERROR * abs(exact) * (1 + 1e-9) + ABSOLUTE_ERROR
    assert abs(gathered(numbers).at(share) - exact) <= allowed


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_count_sum_least_and_greatest_are_exact(numbers):
    quantiles = gathered(numbers)
    assert (quantiles.count, quantiles.least, quantiles.greatest) == (len(numbers), min(numbers), max(numbers))
    assert quantiles.total == pytest.approx(math.fsum(numbers), rel=1e-9, abs=1.0)


def test_the_middle_and_the_end_of_a_million_durations():
    quantiles = gathered(range(1, 1_000_001))
    assert quantiles.at(0.5) == pytest.approx(500_000, rel=RELATIVE_ERROR)
    assert quantiles.at(0.99) == pytest.approx(990_000, rel=RELATIVE_ERROR)
    assert len(quantiles._buckets) < 750


def test_whatever_the_numbers_are_the_buckets_are_few():
    numbers = [sign * 10 ** (exponent / 50) for sign in (-1, 1) for exponent in range(-15_000, 15_000)]
    quantiles = gathered(numbers)
    assert len(quantiles._buckets) < 5_700
    assert quantiles.at(1.0) <= quantiles.greatest == max(numbers)


def test_without_numbers_there_is_no_quantile():
    assert Quantiles().at(0.5) is None
