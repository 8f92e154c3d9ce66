"""What is said of a condition before any score exists."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from steerguard.policy.conditions import MAX_CASES, can_be_true, too_deep
from steerguard.policy.rule_documents import Condition


def parsed(condition: Any) -> Any:
    return TypeAdapter(Condition).validate_json(json.dumps(condition))


def above(value: float, detector: str = "d", kind: str = "value") -> dict[str, Any]:
    return {"detector": detector, "score": {"at_least": {kind: value}}}


def below(value: float, detector: str = "d", kind: str = "value") -> dict[str, Any]:
    return {"detector": detector, "score": {"below": {kind: value}}}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"always": True}, True),
        (above(1), True),
        ({"all": [above(1), below(1)]}, False),
        ({"all": [above(1), below(1.5)]}, True),
        ({"all": [above(1), below(1, "e")]}, True),
        ({"any": [above(1), below(1)]}, True),
        ({"not": {"any": [above(1), below(1)]}}, False),
        ({"not": {"any": [above(1.5), below(1)]}}, True),
        ({"all": [above(0.1, kind="fpr"), below(0.2, kind="fpr")]}, False),
        ({"all": [above(0.2, kind="fpr"), below(0.1, kind="fpr")]}, True),
        # How a rate lies to a raw score is known to the calibration only.
        ({"all": [above(0.1, kind="fpr"), below(-1e6)]}, True),
        ({"all": [{"any": [above(3), below(0)]}, {"all": [above(1), below(2)]}]}, False),
    ],
)
def test_a_condition_that_no_scores_make_true_is_found(condition: Any, expected: bool) -> None:
    assert can_be_true(parsed(condition)) is expected


def test_a_condition_of_too_many_cases_counts_as_one_that_can_be_true() -> None:
    detectors = [f"d{index}" for index in range(MAX_CASES.bit_length())]
    never = {"all": [{"any": [above(1, name) for name in detectors]}, *(below(1, name) for name in detectors)]}
    assert can_be_true(parsed(never))


def test_depth_counts_any_all_and_not_but_no_comparison() -> None:
    condition = {"any": [above(1), {"all": [{"not": above(2)}]}]}
    assert too_deep(parsed(condition), 3) is None
    assert too_deep(parsed(condition), 2) == ("any", 1, "all", 0)
    assert too_deep(parsed(above(1)), 0) is None
