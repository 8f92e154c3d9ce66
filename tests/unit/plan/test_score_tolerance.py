"""The score tolerance of a detector: stated once, held by the plan, at least twice what was measured."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from statistics import pstdev

import pytest
from tests.guarded_models import policy, registry_for, shared_model, tokenizer

from steerguard.artifacts.calibration import calibration_from_scores, parse_calibration
from steerguard.content import registry_directory
from steerguard.errors import LooserPolicyError, UnsupportedPlanError
from steerguard.models.inspect import inspect_model
from steerguard.models.loading import WEIGHT_TYPES
from steerguard.plan.compile import compile_plan
from steerguard.plan.describe import describe
from steerguard.plan.planned_rules import float32, raised
from steerguard.plan.resolve import resolve_artifacts
from steerguard.plan.score_tolerance import COSINE, LINEAR_SHARE, score_tolerance
from steerguard.plan.tighten import check_tightens
from steerguard.policy.rules import near

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "score_spread.json"


def calibration(*scores):
    return calibration_from_scores(list(scores), score="made up", source="tests")


def plan(dtype="float32"):
    document, facts = policy(), inspect_model(shared_model(), tokenizer())
    facts = dataclasses.replace(facts, dtype=dtype)
    return compile_plan(document, facts, resolve_artifacts(document, facts, registry_for(shared_model())))


def test_a_linear_tolerance_follows_the_deviation_of_the_benign_scores():
    wide, narrow = calibration(-6.0, 6.0), calibration(-0.5, 0.5)
    assert score_tolerance("linear_probe", "bfloat16", wide) == pytest.approx(6 * LINEAR_SHARE["bfloat16"])
    for few in (narrow, calibration(3.0), None):
        assert score_tolerance("linear_probe", "bfloat16", few) == LINEAR_SHARE["bfloat16"]


@pytest.mark.parametrize("dtype", WEIGHT_TYPES)
def test_a_cosine_tolerance_is_in_units_of_the_cosine(dtype):
    assert score_tolerance("cosine", dtype, calibration(-6.0, 6.0)) == COSINE[dtype]
    assert score_tolerance("cosine", dtype, None) == COSINE[dtype]


def test_every_type_of_weights_that_can_be_loaded_has_one_and_fewer_bits_have_a_greater_one():
    for table in (LINEAR_SHARE, COSINE):
        assert set(WEIGHT_TYPES) <= set(table)
        assert 0 < table["float64"] <= table["float32"] < table["float16"] < table["bfloat16"]


@pytest.mark.parametrize(("kind", "dtype"), [("linear_probe", "float8_e4m3fn"), ("text_classifier", "float32")])
def test_what_has_no_tolerance_is_refused(kind, dtype):
    with pytest.raises(UnsupportedPlanError, match="No score tolerance is known") as caught:
        score_tolerance(kind, dtype, None)
    assert kind in str(caught.value.found)
    assert dtype in str(caught.value.found)


def test_the_plan_holds_tells_and_signs_the_tolerance():
    made = plan()
    (detector,) = made.detectors
    scores = [float(score) for score in _calibration().benign_scores]
    assert detector.tolerance == LINEAR_SHARE["float32"] * max(1.0, pstdev(scores))
    assert made.tolerances == {"d": detector.tolerance}
    assert made.document()["detectors"][0]["tolerance"] == repr(detector.tolerance)
    assert f"A score of d within {detector.tolerance:.3g} of a bound" in "\n".join(describe(made))
    other = dataclasses.replace(made, detectors=(dataclasses.replace(detector, tolerance=0.5),))
    assert other.digest != made.digest


def test_a_policy_for_one_request_cannot_bring_another_tolerance():
    made = plan()
    exact = dataclasses.replace(made, detectors=(dataclasses.replace(made.detectors[0], tolerance=0.0),))
    check_tightens(made, plan())
    with pytest.raises(LooserPolicyError, match="detectors"):
        check_tightens(made, exact)


@pytest.mark.parametrize("calibrated", [0.0, 0.3, -0.3, 1e-8, 1234.5, -1e6])
@pytest.mark.parametrize("tolerance", [0.0, 1e-6, 2e-4, 0.42, 7.0])
def test_a_raised_bound_reaches_down_to_the_calibrated_threshold_and_no_further(calibrated, tolerance):
    calibrated = float32(calibrated)
    bound = raised(calibrated, tolerance)
    first = near(bound, tolerance)[0]
    assert bound == float32(bound)
    assert calibrated <= first <= calibrated + 2e-7 * max(abs(calibrated), abs(bound))


@pytest.mark.parametrize("detector", ["harmful_intent", "condition_tanh", "condition_direction"])
@pytest.mark.parametrize("weights", WEIGHT_TYPES)
def test_the_tolerance_is_at_least_twice_the_largest_difference_measured_on_the_packaged_model(detector, weights):
    spreads = json.loads(RESULTS.read_text(encoding="utf-8"))["spreads"]
    (found,) = [
        one
        for one in spreads
        if (one["model"], one["weights"], one["detector"]) == ("packaged:smollm2", weights, detector)
    ]
    kind = "linear_probe" if detector == "harmful_intent" else "cosine"
    stated = score_tolerance(kind, weights, _shipped())
    assert stated == pytest.approx(float(found["tolerance"]), rel=1e-2)
    assert 0 < 2 * float(found["largest"]) <= stated


def _calibration():
    facts = inspect_model(shared_model(), tokenizer())
    return resolve_artifacts(policy(), facts, registry_for(shared_model()))["harmful-intent@^1"].calibration


def _shipped():
    (folder,) = (registry_directory() / "harmful-intent" / "smollm2-135m-instruct").iterdir()
    return parse_calibration((folder / "calibration.json").read_bytes())
