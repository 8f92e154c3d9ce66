"""Score tolerances: how far rounding may move a detector's score, by type of weights. Stated here and nowhere else.

A model rounds differently in a batch of another shape, with padding on the other side, in chunks or without a cache, so
the same prompt reads another score. Measured on SmolLM2-135M-Instruct with the shipped probe `harmful-intent` 2.1.0 and
with cosine conditions along its weights, by `make benchmark-spread` (figures in `docs/calibration.md`); every tolerance is
at least twice the largest difference found there, and a test holds the two together.

A linear probe's score has the scale of its weights. Rounding moves it by a share of what tells prompts apart, so its
tolerance is stated as a share of the deviation of the benign scores in the artifact's own calibration, and of 1.0 where
that is smaller or unknown: the score of a logistic probe is in units of log-odds. A cosine has no scale of its own, and
its tolerance is in units of the cosine.
"""

from __future__ import annotations

from statistics import pstdev
from typing import TYPE_CHECKING

from steerguard.errors import UnsupportedPlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.artifacts.calibration import Calibration

LINEAR_SHARE: Mapping[str, float] = {"float64": 1e-4, "float32": 1e-4, "float16": 0.025, "bfloat16": 0.2}
"""Tolerance of a linear probe by type of weights, as a share of the deviation of its benign scores."""

COSINE: Mapping[str, float] = {"float64": 1e-6, "float32": 1e-6, "float16": 4e-4, "bfloat16": 2.5e-3}
"""Tolerance of a cosine by type of weights."""

SMALLEST_SCALE = 1.0
"""Deviation that a linear probe's scores are taken to have at least."""


def score_tolerance(detector_type: str, dtype: str, calibration: Calibration | None) -> float:
    """Return how far rounding may move a detector's score, above 0.0, in units of the score.

    Args:
        detector_type: `linear_probe` or `cosine`.
        dtype: type of the model's weights, for example `bfloat16`.
        calibration: the artifact's own, None where it has none; never one of the policy's, so that two policies with the
            same detector have the same tolerance.

    Raises:
        UnsupportedPlanError: no tolerance is known for the detector or the type of weights.
    """
    known = {"linear_probe": LINEAR_SHARE, "cosine": COSINE}.get(detector_type, {})
    if dtype not in known:
        raise UnsupportedPlanError(
            "No score tolerance is known, so nobody can say which verdicts rounding may change.",
            expected=f"a detector of a type that is known, and weights in {', '.join(LINEAR_SHARE)}",
            found=f"a detector of type `{detector_type}` on weights in {dtype}",
            where="detectors",
            next_step="Load the model in a floating point type that is listed.",
        )
    if detector_type == "cosine" or calibration is None:
        return known[dtype]
    return known[dtype] * max(SMALLEST_SCALE, pstdev(float(score) for score in calibration.benign_scores))
