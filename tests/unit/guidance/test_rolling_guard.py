from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.guarded_models import guarded, policy, registry_for, shared_model
from tests.rolling_guards import rolling

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import ArtifactFormatError, CalibrationError, UnsupportedPlanError
from steerguard.guidance.rolling_guard.bind import bind
from steerguard.plan.describe import describe

CALIBRATED = {"first": 2, "every": 3, "in_a_row": 1}
"""How the probe of answers in the registries of tests was calibrated."""


def planned(threshold="{fpr: 0.5}", **settings):
    document = rolling(threshold, **{"family": "harmful-answer", **CALIBRATED, **settings})
    with guarded(shared_model(), document) as wrapped:
        return wrapped.guard.plan, wrapped.guard.engine.program


def artifact():
    registry = registry_for(shared_model())
    (pin,) = registry.pinned("harmful-answer")
    return verify_artifact(registry.read(pin), pin.digest, where="test")


def test_a_rate_becomes_the_score_of_the_calibration_and_stands_in_the_plan() -> None:
    plan, program = planned()
    (watch,) = program.watches
    assert watch.threshold == plan.steps[0].threshold.value == artifact().calibration.threshold("0.5")
    assert (watch.fpr, plan.steps[0].threshold.fpr) == ("0.5", "0.5")
    assert plan.digest != planned("{fpr: 0.4}")[0].digest


def test_a_rate_that_the_calibration_cannot_give_is_refused() -> None:
    with pytest.raises(CalibrationError):
        planned("{fpr: 0.001}")


@pytest.mark.parametrize("other", [{"first": 1}, {"every": 4}, {"in_a_row": 2}])
def test_a_rate_of_answers_that_were_read_otherwise_is_refused_and_both_readings_are_named(other) -> None:
    with pytest.raises(CalibrationError) as caught:
        planned(**other)
    assert "first: 2, every: 3, in_a_row: 1" in caught.value.expected
    found = {**CALIBRATED, **other}
    assert caught.value.found == ", ".join(f"{name}: {value}" for name, value in found.items())
    assert caught.value.where == "guidance entry `watch`"
    planned("{value: 0.5}", **other)


def test_a_rate_of_a_probe_that_was_calibrated_on_prompts_is_refused_and_a_score_is_not() -> None:
    with pytest.raises(CalibrationError, match="calibrated on answers") as caught:
        planned(family="harmful-intent")
    assert "harmful-intent/tiny@1.0.0" in caught.value.found
    plan, _ = planned("{value: 0.5}", family="harmful-intent", every=5)
    assert plan.steps[0].threshold.fpr is None


def test_no_detector_reads_a_probe_of_answers() -> None:
    read = "detectors:\n  - {id: d, type: linear_probe, artifact: harmful-answer@^1, read: generation_prompt_end}\n"
    rules = """
rules:
  - {id: r, when: {detector: d, score: {at_least: {value: 0.0}}}, then: {action: refuse}}
default: {action: allow}"""
    document = policy(rules=rules, detector=False, more=read)
    with (
        pytest.raises(UnsupportedPlanError, match="reads answers, not prompts") as caught,
        guarded(shared_model(), document),
    ):
        pass
    assert caught.value.where == "detector `d`"


def test_the_plan_says_what_is_read_and_from_which_score_on() -> None:
    plan, _ = planned("{value: 1.5}", every=3)
    lines = describe(plan)
    assert any("watch" in line and "every 3" in line and "1.5000" in line for line in lines)
    assert "Read at generated tokens: 2 blocks, while the answer of any row is watched or searched for." in lines


def test_moments_follow_first_and_every() -> None:
    _, program = planned(every=3, first=2)
    (watch,) = program.watches
    assert [count for count in range(12) if watch.reads_after(count)] == [2, 5, 8, 11]


def test_a_step_without_threshold_or_with_broken_weights_is_refused() -> None:
    plan, _ = planned()
    (step,) = plan.steps
    with pytest.raises(UnsupportedPlanError, match="threshold"):
        bind(dataclasses.replace(step, threshold=None), {"probe": artifact()})
    broken = artifact()
    probe = dict(broken.tensors["weights/probe.safetensors"])
    probe["weight"] = torch.full_like(probe["weight"], torch.nan)
    broken = dataclasses.replace(broken, tensors={**broken.tensors, "weights/probe.safetensors": probe})
    with pytest.raises(ArtifactFormatError, match="not finite"):
        bind(step, {"probe": broken})
