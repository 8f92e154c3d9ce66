from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from steerguard.content import policies_directory
from steerguard.methods.bounds import CalibratedBound
from steerguard.methods.catalog import method_named
from steerguard.plan.search_cost import most_search_tokens
from steerguard.policy.json_schema import FILE_NAME
from steerguard.policy.load import load_policy, shipped_policies
from steerguard.policy.rule_documents import AllCondition, AnyCondition, ScoreCondition, comparisons
from steerguard.policy.yaml_subset import read_document

FULL = [Path(__file__).parent / name for name in ("full.yaml", "searches.yaml")]
NAMES = [
    "best-of-n",
    "cast",
    "harmlessness",
    "harmlessness-monitor",
    "inference-guard",
    "refusal-direction",
    "refuse-only",
    "rolling-guard",
]

# The embedded probe is calibrated on 596 ordinary benign prompts; a smaller rate cannot be resolved from them.
SMALLEST_FPR = 1 / 597


def test_the_shipped_policies_are_these() -> None:
    assert list(shipped_policies()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_shipped_policy_loads_under_its_own_name_and_is_listed_in_the_table(name: str) -> None:
    policy = load_policy(name)
    assert policy.metadata.name == name
    assert f"[`{name}`]({name}.yaml)" in (policies_directory() / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", [*(policies_directory() / f"{name}.yaml" for name in NAMES), *FULL], ids=lambda path: path.stem
)
def test_the_committed_schema_accepts_the_document(path: Path) -> None:
    schema = json.loads((policies_directory() / FILE_NAME).read_text(encoding="utf-8"))
    document = read_document(path.read_text(encoding="utf-8"), file=str(path)).data
    validator = Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(document)] == []
    assert [error.message for error in validator.iter_errors(load_policy(path).document())] == []
    assert not validator.is_valid(document | {"unknown": 1})


@pytest.mark.parametrize("name", NAMES)
def test_shipped_policy_says_whether_it_is_experimental_and_has_rates_that_the_calibration_allows(name: str) -> None:
    policy = load_policy(name)
    experimental = any(method_named(entry.method).status == "experimental" for entry in policy.guidance)
    assert policy.metadata.description.startswith("Experimental: ") == experimental
    for rule in policy.rules:
        compared = [comparison for _, comparison in comparisons(rule.when)]
        assert compared
        for comparison in compared:
            bound = comparison.score.at_least
            assert isinstance(bound, CalibratedBound)
            assert bound.fpr >= SMALLEST_FPR


@pytest.mark.parametrize("name", NAMES)
def test_shipped_policy_fails_closed(name: str) -> None:
    policy = load_policy(name)
    assert policy.unrecognised_prompt == "refuse"
    assert {policy.failure.detector, policy.failure.guidance, policy.failure.audit} == {"refuse"}
    assert policy.streaming.strategy == "buffer"


def test_monitor_differs_from_harmlessness_in_mode_and_metadata_only() -> None:
    enforced, monitored = (load_policy(name).document() for name in ("harmlessness", "harmlessness-monitor"))
    differing = {key for key in enforced if enforced[key] != monitored[key]}
    assert differing == {"mode", "metadata"}
    assert monitored["mode"] == "monitor"


def test_cast_steers_what_meets_a_condition_on_probe_and_cosine() -> None:
    policy = load_policy("cast")
    assert {detector.id: detector.type for detector in policy.detectors} == {
        "harmful_intent": "linear_probe",
        "condition": "cosine",
    }
    (rule,) = policy.rules
    assert (rule.then.action, rule.then.use) == ("guide", ("steer",))
    assert isinstance(rule.when, AnyCondition)
    alone, both = rule.when.any_of
    assert isinstance(alone, ScoreCondition)
    assert isinstance(both, AllCondition)
    named = [comparison.detector for _, comparison in comparisons(rule.when)]
    assert named == ["harmful_intent", "harmful_intent", "condition"]


def test_refusal_direction_adds_between_the_rates_of_harmlessness_and_never_removes() -> None:
    policy = load_policy("refusal-direction")
    (entry,) = policy.guidance
    assert (entry.method, entry.mode) == ("refusal_direction", "add")
    assert policy.rules[0] == load_policy("harmlessness").rules[0]
    assert policy.rules[1].when == load_policy("harmlessness").rules[1].when


def test_rolling_guard_refuses_at_the_prompt_and_watches_every_other_row() -> None:
    policy = load_policy("rolling-guard")
    (watch,) = policy.guidance
    assert [rule.then.action for rule in policy.rules] == ["refuse"]
    assert (policy.default.action, policy.default.use) == ("guide", ("watch",))
    assert (watch.method, watch.then) == ("rolling_guard", "refuse")
    (gate,) = (rule.when for rule in policy.rules)
    (clear, *_) = (rule.when for rule in load_policy("harmlessness").rules)
    assert gate.score == clear.score


@pytest.mark.parametrize("name", ["best-of-n", "inference-guard"])
def test_searches_leave_the_plain_answer_first_and_fit_their_budget_with_256_new_tokens(name: str) -> None:
    policy = load_policy(name)
    (entry,) = policy.guidance
    assert (policy.default.action, policy.default.use, policy.rules) == ("guide", (entry.id,), ())
    parts = entry.search({"critic": {"blocks": [1]}})
    assert parts is not None
    assert (parts.start, parts.final_check) == ("lazy", "cost_model")
    assert parts.candidates <= policy.budget.max_candidates
    assert most_search_tokens(parts, 256) <= policy.budget.max_extra_forward_tokens
    comment = (policies_directory() / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"256 new tokens take {most_search_tokens(parts, 256)} at most" in comment


def test_refuse_only_needs_no_guidance() -> None:
    policy = load_policy("refuse-only")
    assert policy.guidance == ()
    assert [rule.then.action for rule in policy.rules] == ["refuse"]
