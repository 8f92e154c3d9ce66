"""Copies of a prompt: what holds for one holds for all, and the stricter verdict wins."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.decision import ACTION_ORDER
from steerguard.engine.copies import any_copy, every_copy, strictest
from steerguard.policy.rules import PlannedBound, PlannedComparison, PlannedRule, decide

ROWS = torch.tensor([True, False, False, False, True, True])


def test_without_copies_every_row_stands_for_itself():
    assert any_copy(ROWS, 1) is ROWS
    assert every_copy(ROWS, 1) is ROWS


@pytest.mark.parametrize(
    ("copies", "some", "all_of_them"),
    [
        (2, [True, True, False, False, True, True], [False, False, False, False, True, True]),
        (3, [True, True, True, True, True, True], [False] * 6),
        (6, [True] * 6, [False] * 6),
    ],
)
def test_what_holds_for_one_copy_or_for_all_of_them_is_spread_over_the_prompt(copies, some, all_of_them):
    assert any_copy(ROWS, copies).tolist() == some
    assert every_copy(ROWS, copies).tolist() == all_of_them


def _rule(index, low, action):
    bound = PlannedBound(value=low, fpr=None)
    when = PlannedComparison(detector="d", at_least=bound, below=None)
    return PlannedRule(id=f"r{index}", when=when, action=action, use=("a",) if action == "guide" else ())


@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 1.0]), st.sampled_from(ACTION_ORDER)), max_size=4),
    st.lists(st.sampled_from([-2.0, -0.5, 0.5, 2.0]), min_size=1, max_size=4),
)
def test_the_verdict_of_a_prompt_is_at_least_as_strict_as_that_of_every_copy(written, scores):
    rules = [_rule(index, low, action) for index, (low, action) in enumerate(written)]
    own = [decide(rules, "allow", (), {"d": score}, guidance=("a",)) for score in scores]
    together = strictest(own, rules=[rule.id for rule in rules], guidance=("a",))
    assert together.action == max((verdict.action for verdict in own), key=ACTION_ORDER.index)
    assert set(together.rules) == {rule for verdict in own for rule in verdict.rules}
    assert together.use == (("a",) if together.action == "guide" else ())
    # Higher scores match more of these rules, so the highest score alone gives the same verdict.
    assert together == decide(rules, "allow", (), {"d": max(scores)}, guidance=("a",))
