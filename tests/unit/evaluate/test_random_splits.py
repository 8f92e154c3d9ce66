"""The check of the guarantee passes where it holds, and fails where it does not."""

from __future__ import annotations

import dataclasses
import random

import pytest

from steerguard.errors import CalibrationError
from steerguard.evaluate.random_splits import split_reports

RATES = ("0.01", "0.05", "0.1")


def scores(n=300, seed=1):
    generator = random.Random(seed)
    return [generator.gauss(0, 1) for _ in range(n)]


def test_exchangeable_scores_keep_the_guarantee_at_every_rate():
    reports = split_reports(scores(), RATES, splits=300)
    assert [report.fpr for report in reports] == list(RATES)
    for report in reports:
        assert report.holds
        assert abs(report.mean_rate - report.allowed_mean) < 0.01
        assert report.allowed_mean <= float(report.fpr)
        seen, allowed = report.above_asked()
        assert seen.n == 300
        assert seen.interval[0] <= allowed


def test_the_same_seed_gives_the_same_splits():
    assert split_reports(scores(), RATES, splits=20) == split_reports(scores(), RATES, splits=20)
    assert split_reports(scores(), RATES, splits=20, seed=1) != split_reports(scores(), RATES, splits=20)


def test_ties_only_lower_the_rates():
    tied = [round(score) for score in scores()]
    for report in split_reports(tied, RATES, splits=200):
        assert report.holds
        assert report.mean_rate <= report.allowed_mean + 0.005


def test_thresholds_that_are_too_low_are_noticed():
    report = split_reports(scores(), ["0.05"], splits=300)[0]
    broken = dataclasses.replace(report, counts=tuple(count + 3 for count in report.counts))
    assert report.holds
    assert not broken.holds
    assert broken.largest_excess > broken.tolerance


def test_quantiles_are_rates_that_few_splits_exceed():
    report = split_reports(scores(), ["0.05"], splits=300)[0]
    for level, rate, seen, allowed in report.quantiles():
        assert allowed <= 1 - level + 1e-9
        assert seen.interval[0] <= allowed
        assert 0 <= rate <= 1


def test_a_rate_that_half_of_the_scores_cannot_bound_is_left_out():
    assert [report.fpr for report in split_reports(scores(40), RATES, splits=5)] == ["0.05", "0.1"]


def test_an_odd_number_of_scores_calibrates_on_the_larger_half():
    (report,) = split_reports(scores(41), ["0.1"], splits=3)
    assert (report.n, report.m) == (21, 20)
    with pytest.raises(CalibrationError):
        split_reports([1.0], RATES)
