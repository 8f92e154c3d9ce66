"""Guarantee 3 is broken by a row near the threshold that takes the less strict verdict, or is not counted."""

from __future__ import annotations

import pytest

from steerguard.decision import Decision, Reading, Threshold, Usage
from steerguard.errors import ConformanceError
from steerguard.testing.guarantees_of_rows import require_strict_side


def decision(score, intended, *, near, cause="rule"):
    threshold = Threshold(rule="split", bound="at_least", value=1.0)
    return Decision(
        request="r",
        row=0,
        mode="enforce",
        readings=(Reading(source="probe", score=score, thresholds=(threshold,), tolerance=0.25, near=near),),
        rules=(),
        cause=cause,
        intended=intended,
        applied=intended,
        doses=(),
        usage=Usage(prompt_tokens=1, generated_tokens=0, extra_forward_tokens=0),
    )


@pytest.mark.parametrize(
    ("score", "intended", "near"),
    [(0.9, "guide", True), (1.1, "guide", True), (0.5, "allow", False), (2.0, "guide", False)],
)
def test_the_stricter_verdict_inside_and_the_plain_one_outside_pass(score, intended, near):
    require_strict_side(3, decision(score, intended, near=near), where="row 0")


@pytest.mark.parametrize(
    ("score", "intended", "near", "words"),
    [
        (0.9, "allow", True, "the less strict verdict"),
        (1.1, "allow", True, "the less strict verdict"),
        (2.0, "allow", False, "the less strict verdict"),
        (0.5, "guide", False, "another verdict than its score"),
        (0.9, "guide", False, "is not, or the other way round"),
        (0.5, "allow", True, "is not, or the other way round"),
    ],
)
def test_everything_else_breaks_the_guarantee(score, intended, near, words):
    with pytest.raises(ConformanceError, match=words):
        require_strict_side(3, decision(score, intended, near=near), where="row 0")


def test_a_row_that_no_rule_decided_is_not_judged_by_its_score():
    require_strict_side(3, decision(2.0, "refuse", near=False, cause="non_finite"), where="row 0")
