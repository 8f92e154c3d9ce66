"""Laws of the decision: order never matters, more rules never loosen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steerguard.decision import ACTION_ORDER
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    decide,
)

DETECTORS = ("a", "b")
STEPS = ("s1", "s2", "s3")

finite = st.floats(min_value=-1e6, max_value=1e6, width=32)
bounds = st.none() | st.builds(PlannedBound, value=finite)
comparisons = st.builds(PlannedComparison, detector=st.sampled_from(DETECTORS), at_least=bounds, below=bounds)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(PlannedAny, any_of=st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(PlannedAll, all_of=st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(PlannedNot, negated=inner)
    ),
    max_leaves=6,
)
actions = st.sampled_from(ACTION_ORDER)
uses = st.lists(st.sampled_from(STEPS), unique=True, min_size=1).map(tuple)


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[object, tuple[str, ...]]:
    action = draw(actions)
    return action, draw(uses) if action == "guide" else ()


@st.composite
def rules(draw: st.DrawFn) -> PlannedRule:
    action, use = draw(outcomes())
    return PlannedRule(
        id=draw(st.uuids()).hex,
        when=draw(st.none() | conditions),
        action=action,
        use=use,
    )


many_rules = st.lists(rules(), max_size=6)
scores = st.fixed_dictionaries(dict.fromkeys(DETECTORS, finite))


@given(many_rules, outcomes(), scores, st.randoms(use_true_random=False))
def test_order_never_matters(listed, default, values, random) -> None:
    shuffled = listed.copy()
    random.shuffle(shuffled)
    first, second = (decide(order, *default, values) for order in (listed, shuffled))
    assert (first.action, first.use, first.cause) == (second.action, second.use, second.cause)
    assert set(first.rules) == set(second.rules)


@given(many_rules, rules(), outcomes(), scores)
def test_another_rule_never_loosens(listed, another, default, values) -> None:
    before, after = decide(listed, *default, values), decide([*listed, another], *default, values)
    assert ACTION_ORDER.index(after.action) >= ACTION_ORDER.index(before.action)
    if before.action == after.action:
        assert set(after.use) >= set(before.use)


@given(outcomes(), scores)
def test_no_rules_give_the_default(default, values) -> None:
    verdict = decide((), *default, values)
    assert (verdict.action, set(verdict.use), verdict.cause) == (default[0], set(default[1]), "default")


@given(many_rules, outcomes(), scores)
def test_the_action_comes_from_a_rule_that_matched_or_from_the_default(listed, default, values) -> None:
    verdict = decide(listed, *default, values)
    asked = {rule.action for rule in listed if rule.id in verdict.rules}
    assert verdict.action in (asked if verdict.cause == "rule" else {default[0]})
    assert bool(verdict.use) == (verdict.action == "guide")


def matched(condition, values) -> bool:
    return PlannedRule(id="r", when=condition, action="refuse").matches(values)


@given(st.lists(conditions, min_size=1, max_size=4), scores)
def test_not_of_any_is_all_of_not(parts, values) -> None:
    negations = tuple(PlannedNot(negated=part) for part in parts)
    assert matched(PlannedNot(negated=PlannedAny(any_of=tuple(parts))), values) == matched(
        PlannedAll(all_of=negations), values
    )


@given(conditions, scores)
def test_not_twice_is_the_condition_itself(condition, values) -> None:
    twice = PlannedNot(negated=PlannedNot(negated=condition))
    assert matched(twice, values) == matched(condition, values) != matched(PlannedNot(negated=condition), values)


@given(conditions, scores)
def test_places_and_comparisons_give_the_condition_back(condition, values) -> None:
    """What a decision records of a rule, its thresholds with their places, is enough to decide it again."""
    rule = PlannedRule(id="r", when=condition, action="refuse")
    truths = {place: matched(comparison, values) for place, comparison in rule.comparisons}
    assert len(truths) == len(rule.comparisons)
    assert recorded(truths) == rule.matches(values)


def recorded(truths: dict[str, bool]) -> bool:
    """Evaluate the tree that the places spell."""
    if set(truths) == {""}:
        return truths[""]
    kind = next(iter(truths)).split(".")[0]
    inside: dict[str, dict[str, bool]] = {}
    for place, truth in truths.items():
        words = place.split(".")
        step = 1 if kind == "not" else 2
        inside.setdefault(".".join(words[:step]), {})[".".join(words[step:])] = truth
    parts = [recorded(part) for part in inside.values()]
    return {"any": any(parts), "all": all(parts), "not": not parts[0]}[kind]
