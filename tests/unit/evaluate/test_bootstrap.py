"""Bootstrap intervals: seeded, around the estimate, and about as wide as theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steerguard.evaluate.bootstrap import auroc_interval, mean_interval, median_interval
from steerguard.evaluate.proportions import auroc

SAMPLE = np.random.default_rng(1).normal(5.0, 2.0, 400).tolist()


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    assert mean_interval(SAMPLE, seed=3) == mean_interval(SAMPLE, seed=3)
    assert mean_interval(SAMPLE, seed=3) != mean_interval(SAMPLE, seed=4)


def test_the_interval_of_a_mean_is_about_two_standard_errors_each_way():
    low, high = mean_interval(SAMPLE, seed=0)
    error = np.std(SAMPLE) / math.sqrt(len(SAMPLE))
    assert np.mean(SAMPLE) - low == pytest.approx(1.96 * error, rel=0.15)
    assert high - np.mean(SAMPLE) == pytest.approx(1.96 * error, rel=0.15)


def test_the_interval_of_a_median_ignores_one_huge_value():
    assert median_interval([*SAMPLE, 1e12], seed=0)[1] < 6.0


def test_equal_values_have_an_interval_of_no_width():
    assert mean_interval([2.5] * 7, seed=0) == (2.5, 2.5)
    assert median_interval([2.5], seed=0) == (2.5, 2.5)


def test_the_interval_of_an_auroc_is_that_of_drawing_by_hand():
    positive = [0.1, 0.4, 0.4, 0.8, 0.9, 1.2]
    negative = [0.0, 0.1, 0.4, 0.5, 0.5]
    generator, drawn = np.random.default_rng(7), []
    for _ in range(20):
        high = generator.integers(0, 6, size=(100, 6))
        low = generator.integers(0, 5, size=(100, 5))
        drawn += [
            auroc([positive[i] for i in one], [negative[i] for i in other])
            for one, other in zip(high, low, strict=True)
        ]
    expected = np.percentile(drawn, [2.5, 97.5])
    assert auroc_interval(positive, negative, seed=7) == pytest.approx(tuple(expected))


def test_classes_apart_have_an_auroc_of_one_for_certain():
    assert auroc_interval([2.0, 3.0], [0.0, 1.0], seed=0) == (1.0, 1.0)
