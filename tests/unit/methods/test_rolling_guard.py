from __future__ import annotations

import json

import pytest
from tests.guarded_models import policy

from steerguard.errors import ArtifactFormatError, PolicyValidationError
from steerguard.methods.rolling_guard import RollingGuardSpec

PARAMS = {"blocks": [12, 15, 16, 16], "over": ["prompt_mean", "end", "end", "prompt_mean"]}
WATCHED = """
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [watch]}}
default: {action: allow}"""


def spec(**settings: object) -> RollingGuardSpec:
    entry = {"id": "watch", "method": "rolling_guard", "artifact": "harmful-intent@^1", "threshold": {"fpr": 0.02}}
    return RollingGuardSpec.model_validate_json(json.dumps(entry | settings))


def document(settings: str, more: str = "") -> object:
    entry = f"id: watch, method: rolling_guard, artifact: harmful-intent@^1, threshold: {{fpr: 0.02}}{settings}"
    return policy(rules=WATCHED, detector=False, more=f"guidance:\n  - {{{entry}}}\n{more}")


def test_it_changes_no_block_and_reads_those_of_the_probe() -> None:
    footprint = spec().footprint({"probe": PARAMS})
    assert footprint.steered_blocks == ()
    assert footprint.read_blocks == (12, 15, 16, 16)
    assert footprint.answer_blocks == (15, 16)
    assert spec().footprint({"probe": {"blocks": [3]}}).answer_blocks == (3,)


@pytest.mark.parametrize("params", [{}, {"blocks": "3"}, {"blocks": [3], "over": ["prompt_mean"]}])
def test_a_probe_that_reads_no_newest_token_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(ArtifactFormatError, match="rolling guard"):
        spec().footprint({"probe": params})


def test_it_needs_a_linear_probe() -> None:
    (need,) = spec().artifact_needs()
    assert (need.role, need.types, need.methods) == ("probe", ("probe",), ("linear_probe",))


@pytest.mark.parametrize("settings", [", then: open", ", opens: [steer]", ", then: refuse, opens: [steer]"])
def test_opens_stands_exactly_with_the_reaction_open(settings: str) -> None:
    with pytest.raises(PolicyValidationError, match="exactly when"):
        document(settings)


@pytest.mark.parametrize("name", ["watch", "other", "ghost"])
def test_only_an_entry_that_adds_can_be_opened(name: str) -> None:
    other = (
        "  - {id: other, method: rolling_guard, artifact: harmful-intent@^1, threshold: {fpr: 0.1}}\n"
        "  - {id: gone, method: refusal_direction, artifact: refusal-direction@^1, mode: ablate}\n"
    )
    with pytest.raises(PolicyValidationError, match="can be opened"):
        document(f", then: open, opens: [{name}]", other)


def test_an_opened_entry_needs_no_rule_of_its_own() -> None:
    document(", then: open, opens: [push]", "  - {id: push, method: fitted_refusal, artifact: refusal-vectors@^1}\n")


def test_the_summary_tells_when_it_reads_and_what_it_does() -> None:
    text = spec(every=4, first=2, then="open", opens=["push"]).summary()
    assert "after 2 generated tokens and every 4" in text
    assert "opens push from there on" in text
    assert "what 2% of benign answers reach" in text
    assert not spec().needs_buffered_stream()
