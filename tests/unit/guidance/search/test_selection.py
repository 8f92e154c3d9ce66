"""Which candidates are possible, safe and kept."""

from __future__ import annotations

import math

import pytest
from tests.searches import guidance_of

from steerguard.guidance.search.selection import Branch, is_broken, is_possible, is_safe, select, value


def branch(**changes):
    return Branch(**{"tokens": (0,), "ended": False, "cost": 0.0, "z": 1.0, "log_prob": -1.0, "drawn": 2} | changes)


def guidance(**parts):
    return guidance_of(lambda _: 0.0, **parts)


@pytest.mark.parametrize("number", ["cost", "z", "log_prob", "ends_safe", "cost_to_go"])
@pytest.mark.parametrize("found", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("ended", [True, False])
def test_a_number_that_is_not_finite_makes_a_branch_impossible_under_every_final_check(number, found, ended):
    broken = branch(ended=ended, **{number: found})
    for check in ("cost_model", "none"):
        parts = guidance(final_check=check, tracks_safety=False)
        assert is_broken(broken, parts)
        assert not is_possible(broken, parts)
        assert not is_safe(broken, parts)
        assert select([broken], parts, 5) == []


def test_within_the_budget_means_strictly_below_it():
    assert is_possible(branch(ended=True, cost=math.nextafter(1.0, 0.0)), guidance(budget=1.0))
    assert not is_possible(branch(ended=True, cost=1.0), guidance(budget=1.0))
    assert is_possible(branch(ended=True, cost=1.0), guidance(budget=1.0, final_check="none"))
    assert is_possible(branch(ended=False, cost=1.0), guidance(budget=1.0))


def test_safe_needs_a_positive_state_only_where_the_search_tracks_it():
    assert not is_safe(branch(z=0.0), guidance())
    assert is_safe(branch(z=5e-324), guidance())
    assert is_safe(branch(z=-1.0), guidance(tracks_safety=False))


def test_a_critic_has_to_think_the_safe_end_likelier_than_not():
    assert not is_safe(branch(ends_safe=0.5), guidance())
    assert is_safe(branch(ends_safe=0.5000001), guidance())


def test_values():
    one = branch(cost=0.5, cost_to_go=0.25, log_prob=-3.0, drawn=2)
    assert value(one, guidance(value="cost")) == 0.75
    assert value(one, guidance(value="likelihood")) == 1.5
    assert value(one, guidance(value="lagrangian", weight=5.0)) == 4.0


def test_the_best_safe_ones_are_kept_best_first_and_of_equals_the_earlier():
    branches = [branch(cost=0.5), branch(cost=0.0, z=-1.0), branch(cost=0.25), branch(cost=0.5), branch(cost=0.25)]
    assert select(branches, guidance(), 3) == [2, 4, 0]
    assert select(branches, guidance(), 9) == [2, 4, 0, 3]


def test_unsafe_ones_are_kept_by_cost_where_none_is_safe():
    unsafe = [branch(cost=3.0, z=-2.0, log_prob=-0.1), branch(cost=2.0, z=-1.0, log_prob=-9.0)]
    assert select(unsafe, guidance(value="likelihood"), 2) == [1, 0]
    assert select([*unsafe, branch(cost=0.5)], guidance(value="likelihood"), 2) == [2]


def test_an_ended_one_over_the_budget_never_takes_a_place():
    branches = [branch(ended=True, cost=1.0, z=0.0), branch(cost=7.0, z=-6.0)]
    assert select(branches, guidance(), 2) == [1]
