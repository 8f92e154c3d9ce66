"""An explanation reproduces the verdict in words."""

from __future__ import annotations

import pytest

from steerguard.decision import Decision, Reading, Threshold, Usage
from steerguard.explain import explain


def _decision(**changes):
    fields = {
        "request": "r",
        "row": 0,
        "mode": "enforce",
        "readings": (),
        "rules": (),
        "cause": "default",
        "intended": "allow",
        "applied": "allow",
        "doses": (),
        "usage": Usage(prompt_tokens=1, generated_tokens=0, extra_forward_tokens=0),
    }
    return Decision(**(fields | changes))


def test_a_revoked_artifact_is_named_as_the_cause_and_no_reading_is_explained():
    text = str(explain(_decision(cause="revoked", intended="refuse", applied="refuse")))
    assert text.splitlines() == [
        "The verdict is `refuse` because of an artifact that was revoked, or a list of revocations that is too old; applied: `refuse`.",
        "Nothing was read: what a revoked artifact reads decides nothing.",
    ]


@pytest.mark.parametrize(
    ("score", "bound", "holds", "flip"),
    [
        (2.0, "at_least", "holds by 1.0000", "below 1.0000"),
        (1.0, "at_least", "holds by 0.0000", "below 1.0000"),
        (0.5, "at_least", "does not hold by 0.5000", "at or above 1.0000"),
        (0.5, "below", "holds by 0.5000", "at or above 1.0000"),
        (1.0, "below", "does not hold by 0.0000", "below 1.0000"),
        (2.0, "below", "does not hold by 1.0000", "below 1.0000"),
    ],
)
def test_each_bound_says_whether_it_holds_and_what_flips_it(score, bound, holds, flip):
    threshold = Threshold(rule="likely", bound=bound, value=1.0, fpr="0.02")
    text = str(explain(_decision(readings=(Reading(source="d", score=score, thresholds=(threshold,)),))))
    assert holds in text
    assert f"a score {flip} flips it" in text
    assert "(false-positive rate 0.02)" in text


@pytest.mark.parametrize(
    ("score", "bound", "place", "words"),
    [
        (
            0.9,
            "at_least",
            None,
            "counts as met, being within the score tolerance, at a distance of 0.1000; a score below 0.8",
        ),
        (
            1.1,
            "at_least",
            None,
            "counts as met, being within the score tolerance, at a distance of 0.1000; a score below 0.8",
        ),
        (0.7, "at_least", None, "does not hold by 0.3000; a score at or above 0.8"),
        (
            1.1,
            "below",
            None,
            "counts as met, being within the score tolerance, at a distance of 0.1000; a score at or above 1.2",
        ),
        (
            1.1,
            "at_least",
            "not",
            "counts as not met, being within the score tolerance, at a distance of 0.1000; a score at or above 1.2",
        ),
        (
            0.9,
            "below",
            "any.0.not",
            "counts as not met, being within the score tolerance, at a distance of 0.1000; a score below 0.8",
        ),
        (
            0.9,
            "below",
            "not.any.0.not",
            "counts as met, being within the score tolerance, at a distance of 0.1000; a score at or above 1.2",
        ),
    ],
)
def test_a_bound_within_the_tolerance_says_which_side_it_counts_for(score, bound, place, words):
    threshold = Threshold(rule="likely", bound=bound, value=1.0, place=place)
    near = abs(score - 1.0) < 0.2
    reading = Reading(source="d", score=score, thresholds=(threshold,), tolerance=0.2, near=near)
    text = str(explain(_decision(readings=(reading,))))
    assert words in text
    assert f"`d` read {score:.4f}, give or take 0.2." in text
    assert ("so the row took the stricter verdict" in text) == near


def test_a_row_that_no_rule_judged_did_not_take_the_stricter_verdict():
    threshold = Threshold(rule="likely", bound="at_least", value=1.0)
    reading = Reading(source="d", score=0.9, thresholds=(threshold,), tolerance=0.2, near=True)
    assert "stricter" not in str(explain(_decision(cause="budget", readings=(reading,))))


def test_parts_of_a_composed_rule_are_told_with_their_places_and_the_rule_as_a_whole():
    thresholds = (
        Threshold(rule="likely", bound="at_least", value=1.0, place="any.0"),
        Threshold(rule="other", bound="below", value=3.0, place="not"),
    )
    text = str(explain(_decision(rules=("likely",), readings=(Reading(source="d", score=2.0, thresholds=thresholds),))))
    assert "`likely` compares at `any.0` with at least 1.0000: holds by 1.0000" in text
    assert "`other` compares at `not` with below 3.0000: holds by 1.0000" in text
    assert "flips this part." in text
    assert "The condition of `likely` as a whole holds." in text
    assert "The condition of `other` as a whole does not hold." in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cause": "rule", "rules": ("a", "b"), "intended": "refuse", "applied": "refuse"}, "rule `a`, `b`"),
        ({"cause": "default"}, "the policy's default"),
        ({"cause": "unrecognised_prompt", "intended": "refuse"}, "No open assistant header"),
        (
            {"cause": "non_finite", "readings": (Reading(source="d", score=None),)},
            "`d` read a number that is not finite",
        ),
        ({"cause": "budget"}, "the budget of the policy"),
        ({"intended": "refuse", "applied": "allow", "mode": "monitor"}, "`refuse` because"),
    ],
)
def test_every_cause_has_words(changes, words):
    explanation = explain(_decision(**changes))
    assert words in str(explanation)
    assert explanation.decision.cause == changes.get("cause", "default")
    assert len(explanation.lines) >= 1
