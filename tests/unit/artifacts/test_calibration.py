from __future__ import annotations

import math
from decimal import Decimal

import pytest
import torch
from tests.artifact_samples import sample_calibration

from steerguard.artifacts.calibration import (
    calibration_bytes,
    calibration_from_scores,
    float32_text,
    next_float32,
    parse_calibration,
    to_float32,
)
from steerguard.errors import CalibrationError


def test_a_calibration_survives_its_bytes():
    assert parse_calibration(calibration_bytes(sample_calibration())) == sample_calibration()


@pytest.mark.parametrize(
    ("fpr", "rank"), [("0.05", 19), ("0.1", 18), (0.1, 18), (Decimal("0.5"), 10), (0.94, 2), (0.96, 1)]
)
def test_the_threshold_is_just_above_the_conformal_rank(fpr, rank):
    calibration = sample_calibration()
    score = float(calibration.benign_scores[rank - 1])
    threshold = calibration.threshold(fpr)
    assert threshold > score
    assert threshold == torch.nextafter(torch.tensor(score), torch.tensor(math.inf)).item()


def test_the_rate_is_exact_decimal_arithmetic():
    # 30 scores, rate 0.1: 31 * 0.9 = 27.9, rank 28; binary arithmetic on 10 scores and 0.3 would round across a rank.
    scores = [float(index) for index in range(1, 10)]
    calibration = calibration_from_scores(scores, score="s", source="test")
    assert calibration.threshold(0.3) == next_float32(7.0)
    assert calibration.threshold("0.7") == next_float32(3.0)


def test_a_rate_that_the_scores_cannot_bound_is_refused_with_the_smallest_that_they_can():
    with pytest.raises(CalibrationError, match=r"at least 0\.05"):
        sample_calibration().threshold(0.049)
    assert sample_calibration().smallest_fpr == Decimal("0.05")


def test_the_smallest_rate_is_accepted():
    for n in (1, 6, 19, 640):
        calibration = calibration_from_scores([float(i) for i in range(n)], score="s", source="test")
        assert calibration.threshold(calibration.smallest_fpr) > n - 1


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 1.5, "nan", "inf", "much", float("nan")])
def test_a_rate_outside_zero_and_one_is_refused(fpr):
    with pytest.raises(CalibrationError, match="between 0 and 1"):
        sample_calibration().threshold(fpr)


@pytest.mark.parametrize("scores", [[], [1.0, float("nan")], [1e60]])
def test_scores_that_calibrate_nothing_are_refused(scores):
    with pytest.raises(CalibrationError, match="finite scores"):
        calibration_from_scores(scores, score="s", source="test")


def test_no_finite_threshold_lies_above_the_largest_float32():
    calibration = calibration_from_scores([3.4028234663852886e38], score="s", source="test")
    with pytest.raises(CalibrationError, match="No finite threshold"):
        calibration.threshold(0.5)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, 0.1, -5.25, 3.4e38, -3.4e38, 1e-45, -1e-45, 1e-38, 7e6])
def test_the_next_float32_agrees_with_torch(value):
    rounded = to_float32(value)
    assert next_float32(rounded) == torch.nextafter(torch.tensor(rounded), torch.tensor(math.inf)).item()
    assert to_float32(float(float32_text(rounded))) == rounded


def test_infinity_has_no_next():
    assert next_float32(math.inf) == math.inf
    assert math.isnan(next_float32(math.nan))
    assert float32_text(math.inf) == "inf"
