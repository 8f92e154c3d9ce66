"""Histograms whose range is not known beforehand."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from steerguard.audit.reading.quantiles import GREATEST
from steerguard.audit.reporting.histogram import MAX_BINS, Histogram

NUMBERS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60)


def histogram_of(numbers):
    found = Histogram()
    for one in numbers:
        found.add(one)
    return found


@example([100.0, 1e5, -5e-324])
@example([GREATEST, GREATEST - 0.125])
@given(NUMBERS | st.lists(st.floats(-10, 10), min_size=1, max_size=200))
def test_every_number_lies_in_a_bin_that_counts_it(numbers):
    found, clamped = histogram_of(numbers), [min(max(one, -GREATEST), GREATEST) for one in numbers]
    rows = found.rows()
    assert len(rows) <= MAX_BINS
    assert sum(count for _, _, count in rows) == len(numbers)
    for low, high, count in rows:
        assert count == sum(low <= one < high for one in clamped)


def test_no_number_gives_no_bin():
    assert Histogram().rows() == []
