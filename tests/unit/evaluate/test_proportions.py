"""Intervals and AUROC against known values and definitions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerguard.errors import SteerguardError
from steerguard.evaluate.proportions import Proportion, auroc

scores = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=20)


def test_wilson_interval_of_a_textbook_case():
    low, high = Proportion(count=8, n=10).interval
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_wilson_interval_stays_open_at_the_ends():
    assert Proportion(count=0, n=20).interval == (pytest.approx(0.0), pytest.approx(0.1611, abs=1e-4))
    assert Proportion(count=20, n=20).interval == (pytest.approx(0.8389, abs=1e-4), pytest.approx(1.0))
    assert Proportion(count=0, n=0).interval == (0.0, 1.0)


@given(scores, scores)
def test_auroc_is_the_share_of_won_pairs(positive, negative):
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    assert auroc(positive, negative) == pytest.approx(wins / (len(positive) * len(negative)))


@given(scores, scores)
def test_auroc_of_swapped_classes_is_the_complement(positive, negative):
    assert auroc(positive, negative) + auroc(negative, positive) == pytest.approx(1.0)


def test_auroc_of_an_empty_class_is_refused():
    with pytest.raises(SteerguardError):
        auroc([], [1.0])
