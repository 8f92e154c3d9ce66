"""The search: what it keeps, what it discards, where it stops, and what it says of that."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.searches import FULL, FakeCritic, coin_table, guidance_of, run_search

from steerguard.guidance.search.ledger import Ledger
from steerguard.guidance.search.loop import SearchStart
from steerguard.testing import ExhaustiveProposer, SampledProposer, TokenTable
from steerguard.testing.exhaustive import candidates_of

WIDE = {"candidates": FULL, "keep": FULL}


def ones(tokens):
    return float(sum(tokens))


class Watched(SampledProposer):
    """Remembers what it was asked for."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.asked = []
        self.kept = []

    def propose(self, counts, max_new_tokens, *, draw, avoid=None):
        self.asked.append((list(counts), max_new_tokens, dict(avoid or {})))
        return super().propose(counts, max_new_tokens, draw=draw, avoid=avoid)

    def keep(self, chosen):
        self.kept.append(list(chosen))
        super().keep(chosen)


def test_one_candidate_is_the_proposers_own_first_draw():
    for seed in range(20):
        whole = SampledProposer(coin_table(), seed).propose([1], 7, draw="sample").tokens[0]
        guidance = guidance_of(ones, budget=100.0, candidates=1, keep=1)
        assert run_search(SampledProposer(coin_table(), seed), guidance, limit=7).tokens == whole


def test_blocks_end_at_the_limit_and_candidates_are_spread_over_what_was_kept():
    proposer = Watched(coin_table(), 0)
    found = run_search(proposer, guidance_of(ones, budget=100.0, candidates=5, block_tokens=3, keep=2), limit=7)
    assert [(counts, room) for counts, room, _ in proposer.asked] == [([5], 3), ([3, 2], 3), ([3, 2], 1)]
    assert (found.outcome, len(found.tokens), found.ended) == ("found", 7, False)
    assert (found.blocks, found.draws, found.retries, found.candidates_drawn) == (3, 3, 0, 15)
    assert found.forward_tokens == 5 * 7


def test_without_block_tokens_the_whole_rest_is_one_block():
    proposer = Watched(coin_table(), 0)
    run_search(proposer, guidance_of(ones, budget=100.0, block_tokens=None), limit=7)
    assert [room for _, room, _ in proposer.asked] == [7]
    assert proposer.kept == []


def test_an_answer_that_ends_early_competes_and_needs_no_more_tokens():
    table = TokenTable(first=(0.5, 0.0, 0.5), after=((0.0, 1.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)), end=2)
    guidance = guidance_of(ones, budget=100.0, block_tokens=1, **WIDE)
    found = run_search(ExhaustiveProposer(table), guidance, limit=2)
    assert found.tokens == (0, 1)
    assert (found.cost, found.ended) == (1.0, False)
    found = run_search(ExhaustiveProposer(table), guidance, limit=4)
    assert found.tokens == (2,)
    assert (found.cost, found.ended) == (2.0, True)


def test_a_retry_avoids_the_tokens_of_the_failed_candidates_and_the_next_block_forgets_them():
    table = TokenTable(first=(0.02, 0.98, 0.0), after=((0.02, 0.98, 0.0),) * 3, end=2)
    proposer = Watched(table, 1)
    guidance = guidance_of(ones, budget=0.5, candidates=2, block_tokens=1, retries=5, avoid_penalty=9.0)
    found = run_search(proposer, guidance, limit=2)
    assert found.tokens == (0, 0)
    assert [avoid for _, _, avoid in proposer.asked] == [{}, {1: 9.0}, {}, {1: 9.0}]
    assert (found.draws, found.retries, found.blocks) == (4, 2, 2)


def test_after_all_retries_the_least_bad_candidates_go_on_and_a_later_block_can_make_them_safe():
    costs = {(0,): 3.0, (1,): 2.0}
    proposer = Watched(coin_table(), 0)
    guidance = guidance_of(lambda tokens: costs.get(tokens, 0.0), candidates=8, block_tokens=1, keep=1, retries=2)
    found = run_search(proposer, guidance, limit=2)
    assert found.tokens[0] == 1
    assert (found.outcome, found.cost, found.retries, found.draws) == ("found", 0.0, 2, 4)


def test_it_fails_closed_where_every_answer_costs_too_much():
    found = run_search(ExhaustiveProposer(coin_table()), guidance_of(lambda _: 1.0, budget=1.0, **WIDE))
    assert (found.tokens, found.cost, found.z, found.ended) == (None, None, None, False)
    assert found.outcome == "no_candidate"


def test_without_a_final_check_the_cheapest_is_returned_whatever_it_costs():
    guidance = guidance_of(lambda tokens: 5.0 + ones(tokens), final_check="none", **WIDE)
    found = run_search(ExhaustiveProposer(coin_table()), guidance)
    assert (found.tokens, found.cost, found.z) == ((0, 0, 0, 0), 5.0, -4.0)


@pytest.mark.parametrize("check", ["cost_model", "none"])
def test_candidates_without_a_finite_cost_are_never_kept(check):
    guidance = guidance_of(lambda _: math.nan, final_check=check)
    found = run_search(SampledProposer(coin_table(), 0), guidance)
    assert (found.tokens, found.outcome, found.retries) == (None, "non_finite", 1)


def test_a_state_that_leads_out_of_a_block_is_the_parents():
    guidance = guidance_of(ones, budget=10.0, block_tokens=1, discount=0.5, candidates=1, keep=1)
    found = run_search(SampledProposer(coin_table(), 3), guidance, limit=3)
    z, costs = 10.0, [float(token) for token in found.tokens]
    for cost in costs:
        z = (z - cost) / 0.5
    assert found.z == z


def test_a_critic_filters_and_values_unfinished_candidates_only():
    critic = FakeCritic(
        lambda answer, _: 0.9 if answer.startswith("1") else 0.1,
        lambda answer, _: -5.0 if answer == "1 0" else 0.0,
    )
    guidance = guidance_of(ones, budget=10.0, critic=critic, candidates=FULL, keep=1)
    found = run_search(ExhaustiveProposer(coin_table()), guidance, limit=4)
    assert found.tokens == (1, 0, 0, 0)
    assert critic.seen == [(("0 0", "0 1", "1 0", "1 1"), (10.0, 9.0, 9.0, 8.0))]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_critic_without_finite_numbers_leaves_nothing(number):
    for critic in (FakeCritic(lambda *_: number), FakeCritic(lambda *_: 0.9, lambda *_: number)):
        found = run_search(SampledProposer(coin_table(), 0), guidance_of(ones, budget=10.0, critic=critic))
        assert (found.tokens, found.outcome) == (None, "non_finite")


def test_a_critic_that_the_parts_do_not_use_is_not_asked():
    critic = FakeCritic(lambda *_: math.nan)
    guidance = guidance_of(ones, budget=10.0, critic=critic, uses_critic=False)
    assert run_search(SampledProposer(coin_table(), 0), guidance).outcome == "found"
    assert critic.seen == []


def test_what_a_cost_model_or_critic_raises_is_passed_on():
    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_search(SampledProposer(coin_table(), 0), guidance_of(broken))
    with pytest.raises(ZeroDivisionError):
        run_search(SampledProposer(coin_table(), 0), guidance_of(ones, critic=FakeCritic(broken)))


def test_a_start_is_part_of_the_answer_its_cost_and_its_clock():
    class Behind(SampledProposer):
        def __init__(self):
            super().__init__(coin_table(), 0)
            self._live = [(1, 1)]

    start = SearchStart(tokens=(1, 1), z=3.0, blocks=1, cost=2.0)
    found = run_search(Behind(), guidance_of(ones, budget=5.0, candidates=16), limit=6, start=start)
    assert found.tokens == (1, 1, 0, 0, 0, 0)
    assert (found.cost, found.z, found.blocks, found.draws) == (2.0, 3.0, 3, 2)


def test_the_budget_ends_the_search_and_a_finished_answer_at_hand_is_returned():
    table = TokenTable(first=(0.5, 0.0, 0.5), after=((1.0, 0.0, 0.0),) * 3, end=2)
    guidance = guidance_of(lambda tokens: 0.5 * (2 in tokens), block_tokens=1, candidates=8, keep=1)
    for tokens, answer in ((7, None), (8, (2,)), (15, (2,)), (16, (2,)), (24, (0, 0, 0))):
        ledger = Ledger(max_forward_tokens=tokens)
        found = run_search(SampledProposer(table, 0), guidance, limit=3, ledger=ledger)
        assert found.tokens == answer
        assert found.outcome == ("found" if tokens == 24 else "forward_tokens")
        assert found.forward_tokens == ledger.forward_tokens <= tokens


def test_time_is_looked_at_between_draws():
    now = iter(range(100))
    ledger = Ledger(max_latency_seconds=2.0, clock=lambda: float(next(now)))
    found = run_search(SampledProposer(coin_table(), 0), guidance_of(ones, budget=9.0), limit=20, ledger=ledger)
    assert (found.tokens, found.outcome, found.draws, found.blocks) == (None, "latency", 2, 2)


def test_a_ledger_caps_how_many_candidates_are_alive():
    proposer = Watched(coin_table(), 0)
    found = run_search(proposer, guidance_of(ones, budget=9.0, candidates=8), ledger=Ledger(max_candidates=3))
    assert [sum(counts) for counts, _, _ in proposer.asked] == [3, 3]
    assert (found.candidates, found.halvings) == (3, 0)


def test_memory_for_fewer_candidates_keeps_fewer_and_goes_on():
    guidance = guidance_of(ones, budget=9.0, candidates=8, keep=4)
    found = run_search(SampledProposer(coin_table(), 0, most_rows=2), guidance)
    assert (found.outcome, found.candidates, found.halvings, found.draws) == ("found", 2, 2, 2)
    found = run_search(SampledProposer(coin_table(), 0, most_rows=0), guidance)
    assert (found.tokens, found.outcome, found.candidates) == (None, "memory", 1)


def test_the_most_likely_tokens_are_drawn_once_each():
    table = replace(coin_table(), first=(0.2, 0.7, 0.1))
    proposer = Watched(table, 0)
    guidance = guidance_of(ones, budget=9.0, block_tokens=1, candidates=2, keep=1, draw="top", value="likelihood")
    assert run_search(proposer, guidance, limit=2).tokens == (1, 0)


def test_a_finished_answer_that_was_beaten_is_remembered_until_the_others_have_ended():
    table = TokenTable(first=(0.5, 0.0, 0.5), after=((1.0, 0.0, 0.0),) * 3, end=2)
    costs = {(0,): 0.0, (2,): 0.5, (0, 0): 3.0}
    for check in ("cost_model", "none"):
        guidance = guidance_of(costs.get, block_tokens=1, candidates=8, keep=1, final_check=check)
        proposer = Watched(table, 0)
        assert run_search(proposer, guidance, limit=2).tokens == (2,)
        assert len(proposer.asked) == 2


def test_no_more_than_n_are_kept_even_where_more_were_proposed():
    class Counted(ExhaustiveProposer):
        asked = ()

        def propose(self, counts, max_new_tokens, *, draw, avoid=None):
            self.asked = (*self.asked, list(counts))
            return super().propose(counts, max_new_tokens, draw=draw, avoid=avoid)

    proposer = Counted(coin_table())
    assert run_search(proposer, guidance_of(ones, budget=9.0, candidates=3, keep=9)).outcome == "found"
    assert proposer.asked == ([3], [1, 1, 1])


class Scripted(ExhaustiveProposer):
    """Proposes what a script says, one line a draw, and remembers what was to be avoided."""

    def __init__(self, *script):
        super().__init__(coin_table())
        self.script = list(script)
        self.avoided = []

    def propose(self, counts, max_new_tokens, *, draw, avoid=None):
        self.avoided.append(set(avoid or {}))
        return candidates_of(self.table, [()], [(0, new) for new in self.script.pop(0)])


def test_every_retry_avoids_the_tokens_of_all_draws_before_it():
    proposer = Scripted([(0,)], [(1,)], [(2,)])
    run_search(proposer, guidance_of(lambda _: 9.0, retries=2), limit=1)
    assert proposer.avoided == [set(), {0}, {0, 1}]


@pytest.mark.parametrize(("check", "answer"), [("none", (0, 2)), ("cost_model", None)])
def test_a_finished_answer_of_a_discarded_draw_can_be_returned_where_nothing_is_checked(check, answer):
    costs = {(0, 2): 5.0, (1, 1): math.nan}
    guidance = guidance_of(costs.get, final_check=check)
    proposer = Scripted([(0, 2)], [(1, 1)])
    proposer.table = TokenTable(first=(0.5, 0.5, 0.0), after=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)), end=2)
    assert run_search(proposer, guidance).tokens == answer
