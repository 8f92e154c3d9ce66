"""A plan that passes as a tightening is never less restrictive, whatever the scores are."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st
from tests.guarded_models import policy, registry_for, shared_model, tokenizer

from steerguard.decision import ACTION_ORDER
from steerguard.errors import LooserPolicyError
from steerguard.models.inspect import inspect_model
from steerguard.plan.compile import compile_plan
from steerguard.plan.resolve import resolve_artifacts
from steerguard.plan.tighten import check_tightens
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    decide,
)

DETECTORS, STEPS = ("a", "b"), ("s1", "s2")
TOLERANCES = (0.25, 0.0)
"""Of the two detectors: with 0.25 the scores near 0.0 and near 0.5 touch."""
few = st.sampled_from([-1.0, 0.0, 0.5, 2.0])
"""Few values, so that plans that tighten are found, and scores that hit a bound exactly."""
finite = few | st.floats(min_value=-1e6, max_value=1e6, width=32)
bounds = st.none() | st.builds(PlannedBound, value=few)
comparisons = st.builds(PlannedComparison, detector=st.sampled_from(DETECTORS), at_least=bounds, below=bounds)
conditions = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(PlannedAny, any_of=st.lists(inner, min_size=1, max_size=2).map(tuple))
        | st.builds(PlannedAll, all_of=st.lists(inner, min_size=1, max_size=2).map(tuple))
        | st.builds(PlannedNot, negated=inner)
    ),
    max_leaves=4,
)
uses = st.lists(st.sampled_from(STEPS), unique=True, min_size=1).map(tuple)


@st.composite
def outcomes(draw):
    action = draw(st.sampled_from(ACTION_ORDER))
    return action, draw(uses) if action == "guide" else ()


@st.composite
def rules(draw):
    action, use = draw(outcomes())
    return PlannedRule(id=draw(st.uuids()).hex, when=draw(st.none() | conditions), action=action, use=use)


many_rules = st.lists(rules(), max_size=3)
scores = st.fixed_dictionaries(dict.fromkeys(DETECTORS, finite))


@functools.cache
def plan():
    """A compiled plan with two detectors and two steps of one artifact each."""
    document, facts = policy(), inspect_model(shared_model(), tokenizer())
    found = compile_plan(document, facts, resolve_artifacts(document, facts, registry_for(shared_model())))
    return replace(
        found,
        detectors=tuple(
            replace(found.detectors[0], id=name, tolerance=tolerance)
            for name, tolerance in zip(DETECTORS, TOLERANCES, strict=True)
        ),
        steps=tuple(replace(found.steps[0], id=name) for name in STEPS),
    )


def with_rules(listed, default):
    return replace(plan(), rules=tuple(listed), default_action=default[0], default_use=default[1])


def restrictions(one, values):
    verdict = decide(one.rules, one.default_action, one.default_use, values, tolerances=one.tolerances)
    return ACTION_ORDER.index(verdict.action), set(verdict.use)


@given(many_rules, outcomes(), many_rules, outcomes(), st.lists(scores, min_size=1, max_size=20))
def test_what_passes_is_never_less_restrictive(listed, default, others, other_default, tried):
    in_force, wanted = with_rules(listed, default), with_rules(others, other_default)
    try:
        check_tightens(in_force, wanted)
    except LooserPolicyError:
        reject()
    for values in tried:
        (rank, use), (other, other_use) = restrictions(in_force, values), restrictions(wanted, values)
        assert other > rank or (other == rank and other_use >= use)


@given(many_rules, outcomes(), many_rules, outcomes(), scores)
@example([], ("allow", ()), [], ("allow", ()), {"a": 0.0, "b": 0.0})
def test_what_is_less_restrictive_anywhere_is_refused(listed, default, others, other_default, values):
    in_force, wanted = with_rules(listed, default), with_rules(others, other_default)
    (rank, use), (other, other_use) = restrictions(in_force, values), restrictions(wanted, values)
    if other < rank or (other == rank and not other_use >= use):
        with pytest.raises(LooserPolicyError):
            check_tightens(in_force, wanted)


@given(many_rules, outcomes(), rules())
def test_another_rule_and_the_same_plan_always_pass(listed, default, another):
    in_force = with_rules(listed, default)
    check_tightens(in_force, in_force)
    check_tightens(in_force, with_rules([*listed, another], default))
