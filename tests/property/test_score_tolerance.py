"""What rounding could have said of a row never loosens its verdict: scores within their tolerance take the stricter side."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.property.test_policy_rules import bounds, conditions, finite, many_rules, outcomes
from tests.property.test_policy_rules import scores as any_scores

from steerguard.artifacts.calibration import next_float32, to_float32
from steerguard.decision import ACTION_ORDER
from steerguard.plan.tighten import at_least_as_restrictive
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    decide,
    interval_of,
    near,
)

DETECTORS = ("a", "b")
tolerances = st.fixed_dictionaries(dict.fromkeys(DETECTORS, st.just(0.0) | st.floats(1e-6, 3.0)))
shares = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]) | st.floats(-1.0, 1.0)


@st.composite
def near_scores(draw, rules, allowed):
    """Scores at, beside or within reach of the rules' own bounds, where everything is decided."""
    ends = {name: [0.0] for name in DETECTORS}
    for rule in rules:
        for _, comparison in rule.comparisons:
            for bound in (comparison.at_least, comparison.below):
                if bound is not None:
                    tolerance = allowed[comparison.detector]
                    ends[comparison.detector] += [bound.value, *near(bound.value, tolerance)]
    found = {}
    for name in DETECTORS:
        around = draw(st.sampled_from(ends[name])) + draw(shares) * allowed[name]
        found[name] = to_float32(around)
    return found


def moved(draw, values, allowed):
    """Other scores within the tolerances of these."""
    found = {}
    for name, score in values.items():
        other = to_float32(score + draw(shares) * allowed[name])
        found[name] = other if abs(other - score) <= allowed[name] else score
    return found


@given(many_rules, outcomes(), tolerances, st.data())
def test_no_score_within_the_tolerance_has_a_stricter_verdict(listed, default, allowed, data):
    values = data.draw(near_scores(listed, allowed))
    verdict = decide(listed, *default, values, tolerances=allowed)
    other = decide(listed, *default, moved(data.draw, values, allowed))
    assert at_least_as_restrictive(verdict, other)
    assert set(other.rules) <= set(verdict.rules)


@given(many_rules, outcomes(), tolerances, st.data())
def test_outside_every_tolerance_the_verdict_is_the_plain_one(listed, default, allowed, data):
    values = data.draw(near_scores(listed, allowed) | any_scores)
    for rule in listed:
        for _, comparison in rule.comparisons:
            for bound in (comparison.at_least, comparison.below):
                if bound is not None:
                    first, end = near(bound.value, allowed[comparison.detector])
                    assume(not first <= values[comparison.detector] < end)
    assert decide(listed, *default, values, tolerances=allowed) == decide(listed, *default, values)


@given(many_rules, outcomes(), tolerances, st.floats(1.0, 4.0), st.data())
def test_a_greater_tolerance_never_loosens(listed, default, allowed, factor, data):
    values = data.draw(near_scores(listed, allowed))
    wider = {name: tolerance * factor for name, tolerance in allowed.items()}
    less, more = (decide(listed, *default, values, tolerances=some) for some in (allowed, wider))
    assert at_least_as_restrictive(more, less)


@given(many_rules, outcomes(), any_scores)
def test_a_tolerance_of_zero_compares_as_it_is(listed, default, values):
    zero = dict.fromkeys(DETECTORS, 0.0)
    assert decide(listed, *default, values, tolerances=zero) == decide(listed, *default, values)


def three_valued(condition, values, allowed):
    """Evaluate by Kleene's tables: True, False, or None for what may be either."""
    match condition:
        case PlannedComparison(detector=name, at_least=low, below=high):
            score, tolerance = values[name], allowed[name]
            ends = []
            for bound, wanted in ((low, True), (high, False)):
                if bound is not None:
                    first, end = near(bound.value, tolerance)
                    reached = None if first <= score < end else score >= bound.value
                    ends.append(None if reached is None else reached == wanted)
            return False if False in ends else None if None in ends else True
        case PlannedAny(any_of=parts):
            found = [three_valued(part, values, allowed) for part in parts]
            return True if True in found else None if None in found else False
        case PlannedAll(all_of=parts):
            found = [three_valued(part, values, allowed) for part in parts]
            return False if False in found else None if None in found else True
        case PlannedNot(negated=part):
            found = three_valued(part, values, allowed)
            return None if found is None else not found


@given(conditions, tolerances, st.data())
def test_a_rule_matches_where_its_condition_is_not_false_in_three_valued_logic(condition, allowed, data):
    rule = PlannedRule(id="r", when=condition, action="refuse")
    values = data.draw(near_scores([rule], allowed))
    assert rule.matches(values, allowed) == (three_valued(condition, values, allowed) is not False)


@given(bounds.filter(bool), st.just(0.0) | st.floats(1e-6, 3.0), finite)
def test_the_scores_near_a_bound_are_those_within_the_tolerance_and_hardly_more(bound, tolerance, score):
    first, end = near(bound.value, tolerance)
    assert (first, end) == (to_float32(first), to_float32(end))
    assert first <= bound.value - tolerance <= bound.value + tolerance <= end
    # Rounded outwards by less than one float32 step.
    assert next_float32(first) > bound.value - tolerance
    assert -next_float32(-end) < bound.value + tolerance or tolerance == 0.0
    if not first <= score < end:
        assert abs(score - bound.value) >= tolerance or math.isclose(abs(score - bound.value), tolerance)


@given(conditions, tolerances, st.data())
def test_between_two_turns_a_rule_says_the_same(condition, allowed, data):
    """What the comparison of two plans rests on: one score stands for all between the same two turns."""
    rule = PlannedRule(id="r", when=condition, action="refuse")
    turns = {name: sorted({end for of, end in rule.turns(allowed) if of == name}) for name in DETECTORS}
    values = data.draw(near_scores([rule], allowed))
    lowest = {name: max((end for end in ends if end <= values[name]), default=None) for name, ends in turns.items()}
    stand_ins = {
        name: low if low is not None else min(values[name], (turns[name] or [0.0])[0] - 1.0)
        for name, low in lowest.items()
    }
    assert rule.matches(values, allowed) == rule.matches(stand_ins, allowed)


@pytest.mark.parametrize(
    ("score", "plain", "strict"), [(0.95, "allow", "refuse"), (1.0, "refuse", "refuse"), (0.85, "allow", "allow")]
)
def test_an_example_in_numbers(score, plain, strict):
    rule = PlannedRule(
        id="r",
        when=PlannedNot(negated=PlannedComparison(detector="a", below=PlannedBound(value=1.0))),
        action="refuse",
    )
    assert decide([rule], "allow", (), {"a": score}).action == plain
    assert decide([rule], "allow", (), {"a": score}, tolerances={"a": 0.1}).action == strict
    assert interval_of(rule.when.negated, 0.1, may=False) == (None, near(1.0, 0.1)[0])
    assert ACTION_ORDER.index(strict) >= ACTION_ORDER.index(plain)
