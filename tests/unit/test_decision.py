"""A decision is frozen data whose readings reproduce what was intended."""

from __future__ import annotations

import dataclasses
import json

import pytest
from tests.guarded_models import guarded, policy, prompts, run, shared_model

from steerguard.decision import ACTION_ORDER, Decision
from steerguard.policy.rules import decide

RULES = """
rules:
  - id: high
    when: {detector: d, score: {at_least: {value: 1.5}}}
    then: {action: refuse}
  - id: middle
    when: {detector: d, score: {at_least: {value: -2.5}}}
    then: {action: guide, use: [steer]}
  - id: low
    when: {detector: d, score: {below: {value: -3.0}}}
    then: {action: annotate}
default: {action: allow}"""


def test_actions_are_ordered_from_least_to_most_restrictive():
    assert ACTION_ORDER == ("allow", "annotate", "guide", "refuse")


def test_readings_and_rules_reproduce_every_verdict_and_all_actions_occur():
    with guarded(shared_model(), policy(rules=RULES)) as wrapped:
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(8))
        plan = wrapped.guard.plan
    for report in reports:
        scores = {reading.source: reading.score for reading in report.readings}
        verdict = decide(plan.rules, plan.default_action, plan.default_use, scores)
        assert (verdict.action, verdict.rules, verdict.cause) == (report.intended, report.rules, report.cause)
        assert bool(report.doses) == (report.applied == "guide")
    assert {report.intended for report in reports} >= {"annotate", "guide", "refuse"}


def test_a_decision_is_frozen_and_plain_data():
    with guarded(shared_model(), policy(0.0)) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, prompts(1))
    (decision,) = reports
    assert isinstance(decision, Decision)
    with pytest.raises(dataclasses.FrozenInstanceError):
        decision.applied = "allow"
    json.dumps(dataclasses.asdict(decision))
