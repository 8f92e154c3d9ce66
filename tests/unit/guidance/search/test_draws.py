"""Draws within the budget, fewer where the memory does not suffice."""

from __future__ import annotations

import pytest
from tests.searches import coin_table

from steerguard.errors import CandidateMemoryError
from steerguard.guidance.search.draws import Draws, spread
from steerguard.guidance.search.ledger import Ledger
from steerguard.testing import SampledProposer


def draws_of(*, candidates, most_rows=None, **limits):
    proposer = SampledProposer(coin_table(), seed=0, most_rows=most_rows)
    return Draws(proposer=proposer, ledger=Ledger(**limits), draw="sample", candidates=candidates)


@pytest.mark.parametrize(
    ("candidates", "live", "counts"), [(8, 1, [8]), (8, 3, [3, 3, 2]), (3, 3, [1, 1, 1]), (1, 1, [1])]
)
def test_candidates_are_spread_evenly_and_the_best_prefixes_get_the_remainder(candidates, live, counts):
    assert spread(candidates, live) == counts


def test_a_draw_counts_what_it_took():
    draws = draws_of(candidates=4)
    drawn = draws.next(1, 3, {})
    assert len(drawn.tokens) == 4
    assert (draws.draws, draws.candidates_drawn, draws.forward_tokens, draws.ledger.forward_tokens) == (1, 4, 12, 12)


def test_a_draw_that_might_exceed_the_tokens_is_not_made():
    draws = draws_of(candidates=4, max_forward_tokens=11)
    assert draws.next(1, 3, {}) == "forward_tokens"
    assert (draws.draws, draws.forward_tokens) == (0, 0)


def test_candidates_are_halved_until_there_is_memory_and_stay_halved():
    draws = draws_of(candidates=9, most_rows=3)
    assert len(draws.next(1, 1, {}).tokens) == 2
    assert len(draws.next(1, 1, {}).tokens) == 2
    assert (draws.candidates, draws.halvings) == (2, 2)


def test_without_memory_for_one_candidate_the_draw_stops():
    draws = draws_of(candidates=8, most_rows=0)
    assert draws.next(1, 1, {}) == "memory"
    assert (draws.candidates, draws.halvings, draws.draws) == (1, 3, 0)


def test_every_live_prefix_needs_a_candidate():
    draws = draws_of(candidates=8)
    draws.next(1, 1, {})
    draws.proposer.keep([0, 1, 2])
    draws.proposer.most_rows = 2
    assert draws.next(3, 1, {}) == "memory"
    assert draws.candidates == 3


def test_what_a_failed_draw_took_counts_and_may_use_the_budget_up():
    class Fails:
        def propose(self, counts, max_new_tokens, *, draw, avoid):
            error = CandidateMemoryError("There is no memory.")
            error.forward_tokens = sum(counts) * (max_new_tokens - 1)
            raise error

    draws = Draws(proposer=Fails(), ledger=Ledger(max_forward_tokens=16), draw="sample", candidates=4)
    assert draws.next(1, 4, {}) == "forward_tokens"
    assert (draws.forward_tokens, draws.ledger.forward_tokens, draws.halvings) == (12, 12, 1)
