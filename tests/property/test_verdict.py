"""The rules on the device and the rules on the host are the same function."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.artifacts.calibration import next_float32
from steerguard.engine.verdict import DeviceRules
from steerguard.errors import NonFiniteHiddenStateError
from steerguard.plan.planned_rules import float32
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedNot,
    PlannedRule,
    decide,
    near,
)

STEPS = ("a", "b")
SCORES = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, -1.0])
BOUNDS = st.none() | SCORES.map(lambda value: PlannedBound(value=float32(value)))
COMPARISONS = st.builds(PlannedComparison, detector=st.sampled_from(["d", "e"]), at_least=BOUNDS, below=BOUNDS)
CONDITIONS = st.recursive(
    COMPARISONS,
    lambda inner: (
        st.builds(PlannedAny, any_of=st.lists(inner, min_size=1, max_size=4).map(tuple))
        | st.builds(PlannedAll, all_of=st.lists(inner, min_size=1, max_size=4).map(tuple))
        | st.builds(PlannedNot, negated=inner)
    ),
    max_leaves=8,
)
TOLERANCES = st.fixed_dictionaries({"d": st.just(0.0) | st.floats(1e-6, 2.0), "e": st.just(0.0) | st.floats(1e-6, 2.0)})
ACTIONS = st.sampled_from(["allow", "annotate", "guide", "refuse"])


@st.composite
def outcomes(draw):
    action = draw(ACTIONS)
    use = tuple(draw(st.lists(st.sampled_from(STEPS), min_size=1, unique=True))) if action == "guide" else ()
    return action, use


@st.composite
def planned_rules(draw):
    rules = []
    for index in range(draw(st.integers(0, 4))):
        action, use = draw(outcomes())
        rules.append(PlannedRule(id=f"r{index}", when=draw(st.none() | CONDITIONS), action=action, use=use))
    return tuple(rules)


@given(
    rules=planned_rules(),
    default=outcomes(),
    rows=st.lists(st.tuples(SCORES, SCORES, st.booleans()), min_size=1, max_size=6),
    tolerances=TOLERANCES,
)
def test_device_and_host_open_the_same_steps_for_every_row(rules, default, rows, tolerances):
    device = DeviceRules(
        rules=rules, default_action=default[0], default_use=default[1], steps=STEPS, tolerances=tolerances
    )
    scores = {"d": torch.tensor([row[0] for row in rows]), "e": torch.tensor([row[1] for row in rows])}
    eligible = torch.tensor([row[2] for row in rows])
    opened = device.open_rows(scores, eligible=eligible)
    for index, (first, second, counts) in enumerate(rows):
        verdict = decide(
            rules, default[0], default[1], {"d": first, "e": second}, guidance=STEPS, tolerances=tolerances
        )
        for step in STEPS:
            wanted = counts and verdict.action == "guide" and step in verdict.use
            assert opened[step][index].item() == wanted


@given(rules=planned_rules(), default=outcomes(), rows=st.lists(st.tuples(SCORES, SCORES), min_size=2, max_size=6))
def test_a_row_opens_the_same_steps_alone_and_among_others(rules, default, rows):
    device = DeviceRules(rules=rules, default_action=default[0], default_use=default[1], steps=STEPS)

    def opened(chosen):
        scores = {"d": torch.tensor([row[0] for row in chosen]), "e": torch.tensor([row[1] for row in chosen])}
        return device.open_rows(scores, eligible=torch.ones(len(chosen), dtype=torch.bool))

    together = opened(rows)
    for index, row in enumerate(rows):
        alone = opened([row])
        assert all(alone[step][0] == together[step][index] for step in STEPS)


@given(rules=planned_rules(), default=outcomes(), score=st.sampled_from([float("nan"), float("inf"), float("-inf")]))
def test_a_score_that_is_not_finite_opens_nothing_whatever_is_negated(rules, default, score):
    """The engine makes such a row ineligible; the host raises and refuses it."""
    device = DeviceRules(rules=rules, default_action=default[0], default_use=default[1], steps=STEPS)
    scores = {"d": torch.tensor([score]), "e": torch.tensor([0.0])}
    eligible = torch.isfinite(scores["d"]) & torch.isfinite(scores["e"])
    assert not any(rows.any() for rows in device.open_rows(scores, eligible=eligible).values())
    with pytest.raises(NonFiniteHiddenStateError):
        decide(rules, default[0], default[1], {"d": score, "e": 0.0}, guidance=STEPS)


@given(
    bound=st.floats(-4, 4, width=32),
    tolerance=st.floats(1e-6, 2.0),
    kind=st.sampled_from(["at_least", "below"]),
    negated=st.booleans(),
    data=st.data(),
)
def test_device_and_host_agree_on_the_scores_beside_both_ends_of_a_tolerance(bound, tolerance, kind, negated, data):
    """The float32 numbers at which a verdict turns, and their neighbours."""
    ends = near(bound, tolerance)
    scores = [score for end in ends for score in (-next_float32(-end), end, next_float32(end))]
    comparison = PlannedComparison(detector="d", **{kind: PlannedBound(value=bound)})
    when = PlannedNot(negated=comparison) if negated else comparison
    rules = (PlannedRule(id="r", when=when, action="guide", use=("a",)),)
    device = DeviceRules(rules=rules, default_action="allow", default_use=(), steps=("a",), tolerances={"d": tolerance})
    shown = data.draw(st.permutations(scores))
    opened = device.open_rows({"d": torch.tensor(shown)}, eligible=torch.ones(len(shown), dtype=torch.bool))["a"]
    for row, score in enumerate(shown):
        verdict = decide(rules, "allow", (), {"d": score}, tolerances={"d": tolerance})
        assert bool(opened[row]) == (verdict.action == "guide")
