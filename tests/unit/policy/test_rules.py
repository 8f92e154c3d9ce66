from __future__ import annotations

import math

import pytest

from steerguard.errors import GuidanceError, NonFiniteHiddenStateError
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    decide,
)


def above(value: float, detector: str = "d", fpr: str | None = None) -> PlannedComparison:
    return PlannedComparison(detector=detector, at_least=PlannedBound(value=value, fpr=fpr))


LIKELY = PlannedRule(id="likely", when=above(0.5, fpr="0.02"), action="guide", use=("b",))
CLEAR = PlannedRule(id="clear", when=above(0.9), action="refuse")
MARK = PlannedRule(
    id="mark",
    when=PlannedComparison(detector="d", at_least=PlannedBound(value=0.1), below=PlannedBound(value=0.5)),
    action="annotate",
)


def test_no_rule_gives_the_default() -> None:
    verdict = decide((), "guide", ("a",), {})
    assert (verdict.rules, verdict.action, verdict.use, verdict.cause) == ((), "guide", ("a",), "default")


@pytest.mark.parametrize(
    ("score", "action"), [(0.0, "allow"), (0.1, "annotate"), (0.49, "annotate"), (0.5, "guide"), (0.9, "refuse")]
)
def test_intervals_are_closed_below_and_open_above(score: float, action: str) -> None:
    assert decide((MARK, LIKELY, CLEAR), "allow", (), {"d": score}).action == action


def test_all_matching_rules_are_named_and_the_most_restrictive_wins() -> None:
    verdict = decide((LIKELY, CLEAR), "allow", (), {"d": 1.0})
    assert (verdict.rules, verdict.action, verdict.use, verdict.cause) == (("likely", "clear"), "refuse", (), "rule")


def test_use_is_the_union_in_guidance_order() -> None:
    other = PlannedRule(id="other", when=None, action="guide", use=("c", "a"))
    assert decide((LIKELY, other), "guide", ("d",), {"d": 1.0}, guidance=("d", "c", "b", "a")).use == (
        "d",
        "c",
        "b",
        "a",
    )
    assert decide((LIKELY, other), "allow", (), {"d": 1.0}).use == ("a", "b", "c")


def test_default_is_the_least_that_happens() -> None:
    verdict = decide((MARK,), "refuse", (), {"d": 0.2})
    assert (verdict.action, verdict.cause, verdict.rules) == ("refuse", "default", ("mark",))


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_an_error_even_if_no_rule_reads_it(score: float) -> None:
    with pytest.raises(NonFiniteHiddenStateError, match="not a finite number"):
        decide((), "allow", (), {"d": score})


def test_a_missing_score_is_an_error() -> None:
    with pytest.raises(GuidanceError, match="needs a score"):
        decide((LIKELY,), "allow", (), {"e": 0.0})


EITHER = PlannedAny(any_of=(above(1.0, "a"), PlannedAll(all_of=(above(2.0, "b"), PlannedNot(negated=above(3.0, "c"))))))


@pytest.mark.parametrize(
    ("scores", "matches"),
    [
        ({"a": 1.0, "b": 0.0, "c": 9.0}, True),
        ({"a": 0.0, "b": 2.0, "c": 2.9}, True),
        ({"a": 0.0, "b": 2.0, "c": 3.0}, False),
        ({"a": 0.0, "b": 1.9, "c": 0.0}, False),
    ],
)
def test_any_all_and_not_mean_what_they_say(scores: dict[str, float], matches: bool) -> None:
    rule = PlannedRule(id="r", when=EITHER, action="refuse")
    assert rule.matches(scores) is matches


def test_every_comparison_has_a_place_of_its_own_in_document_order() -> None:
    rule = PlannedRule(id="r", when=EITHER, action="refuse")
    assert [(place, comparison.detector) for place, comparison in rule.comparisons] == [
        ("any.0", "a"),
        ("any.1.all.0", "b"),
        ("any.1.all.1.not", "c"),
    ]
    assert [place for place, _ in LIKELY.comparisons] == [""]
    assert PlannedRule(id="always", when=None, action="refuse").comparisons == ()


def test_a_missing_score_is_an_error_even_where_another_one_decides() -> None:
    rule = PlannedRule(id="r", when=EITHER, action="refuse")
    with pytest.raises(GuidanceError, match="needs a score"):
        decide((rule,), "allow", (), {"a": 5.0, "b": 0.0})
