from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from steerguard.content import policies_directory
from steerguard.methods.bounds import CalibratedBound
from steerguard.methods.catalog import method_named
from steerguard.policy.json_schema import FILE_NAME
from steerguard.policy.load import load_policy, shipped_policies
from steerguard.policy.rule_documents import ScoreCondition
from steerguard.policy.yaml_subset import read_document

FULL = Path(__file__).parent / "full.yaml"
NAMES = ["harmlessness", "harmlessness-monitor", "refuse-only"]

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
    "path", [*(policies_directory() / f"{name}.yaml" for name in NAMES), FULL], ids=lambda path: path.stem
)
def test_the_committed_schema_accepts_the_document(path: Path) -> None:
    schema = json.loads((policies_directory() / FILE_NAME).read_text(encoding="utf-8"))
    document = read_document(path.read_text(encoding="utf-8"), file=str(path)).data
    validator = Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(document)] == []
    assert [error.message for error in validator.iter_errors(load_policy(path).document())] == []
    assert not validator.is_valid(document | {"unknown": 1})


@pytest.mark.parametrize("name", NAMES)
def test_shipped_policy_uses_available_methods_and_rates_that_the_calibration_allows(name: str) -> None:
    policy = load_policy(name)
    assert all(method_named(entry.method).status == "available" for entry in policy.guidance)
    for rule in policy.rules:
        assert isinstance(rule.when, ScoreCondition)
        bound = rule.when.score.at_least
        assert isinstance(bound, CalibratedBound)
        assert bound.fpr >= SMALLEST_FPR


@pytest.mark.parametrize("name", NAMES)
def test_shipped_policy_fails_closed(name: str) -> None:
    policy = load_policy(name)
    assert policy.unrecognised_prompt == "refuse"
    assert {policy.failure.detector, policy.failure.guidance, policy.failure.audit} == {"refuse"}
    assert policy.streaming.strategy == "buffer"


def test_monitor_differs_from_harmlessness_in_mode_and_metadata_only() -> None:
    enforced, monitored = (load_policy(name).document() for name in NAMES[:2])
    differing = {key for key in enforced if enforced[key] != monitored[key]}
    assert differing == {"mode", "metadata"}
    assert monitored["mode"] == "monitor"


def test_refuse_only_needs_no_guidance() -> None:
    policy = load_policy("refuse-only")
    assert policy.guidance == ()
    assert [rule.then.action for rule in policy.rules] == ["refuse"]
