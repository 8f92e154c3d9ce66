"""The proposers over a table keep the contract of a proposer."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from steerguard.critics.cost import CostInputs
from steerguard.errors import CandidateMemoryError
from steerguard.testing import ExhaustiveProposer, SampledProposer, TokenCost, TokenTable

TABLE = TokenTable(first=(0.5, 0.0, 0.5), after=((0.25, 0.5, 0.25), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)), end=2)


def test_every_continuation_is_proposed_once_and_their_probabilities_sum_to_one():
    drawn = ExhaustiveProposer(TABLE).propose([1], 2, draw="sample")
    assert drawn.tokens == ((0, 0), (0, 1), (0, 2), (2,))
    assert drawn.ended == (False, False, True, True)
    assert drawn.parents == (0, 0, 0, 0)
    assert drawn.forward_tokens == 7
    assert math.isclose(sum(map(math.exp, drawn.log_probs)), 1.0)


def test_kept_candidates_are_the_live_prefixes_in_the_order_given_until_others_are_kept():
    proposer = ExhaustiveProposer(TABLE)
    proposer.propose([1], 2, draw="sample")
    proposer.keep([1, 0])
    for _ in range(2):
        drawn = proposer.propose([1, 1], 1, draw="sample")
        assert drawn.parents == (0, 1, 1, 1)
        assert drawn.tokens == ((2,), (0,), (1,), (2,))


@pytest.mark.parametrize("make", [ExhaustiveProposer, lambda table: SampledProposer(table, 0)])
def test_what_breaks_the_contract_is_refused(make):
    proposer = make(TABLE)
    for counts, room in (([], 1), ([0], 1), ([1, 1], 1), ([1], 0)):
        with pytest.raises((AssertionError, ValueError)):
            proposer.propose(counts, room, draw="sample")
    drawn = proposer.propose([40], 1, draw="sample")
    with pytest.raises(AssertionError, match="ended"):
        proposer.keep([drawn.ended.index(True)])
    with pytest.raises(AssertionError, match="no candidate"):
        proposer.keep([])


def test_samples_follow_the_table_and_the_seed():
    drawn = SampledProposer(TABLE, 5).propose([4000], 2, draw="sample")
    assert drawn.tokens == SampledProposer(TABLE, 5).propose([4000], 2, draw="sample").tokens
    assert drawn.tokens != SampledProposer(TABLE, 6).propose([4000], 2, draw="sample").tokens
    expected = {(2,): 0.5, (0, 0): 0.125, (0, 1): 0.25, (0, 2): 0.125}
    found = Counter(drawn.tokens)
    assert found.keys() == expected.keys()
    for tokens, share in expected.items():
        assert abs(found[tokens] / 4000 - share) < 5 * math.sqrt(share * (1 - share) / 4000)


def test_what_is_to_be_avoided_is_drawn_less_often_and_keeps_its_log_probability():
    drawn = SampledProposer(TABLE, 0).propose([500], 1, draw="sample", avoid={2: 30.0})
    assert set(drawn.tokens) == {(0,)}
    assert set(drawn.log_probs) == {math.log(0.5)}


def test_the_most_likely_tokens_come_once_each():
    proposer = SampledProposer(TABLE, 0)
    proposer.propose([1], 1, draw="sample", avoid={2: 99.0})
    proposer.keep([0])
    assert proposer.propose([2], 1, draw="top").tokens == ((1,), (0,))
    assert proposer.propose([9], 1, draw="top", avoid={1: 9.0}).tokens == ((0,), (2,), (1,))


def test_too_many_candidates_lack_memory_and_leave_the_prefixes_as_they_are():
    proposer = SampledProposer(TABLE, 0, most_rows=2)
    with pytest.raises(CandidateMemoryError, match="at most 2"):
        proposer.propose([3], 1, draw="sample")
    assert proposer.propose([2], 1, draw="sample").parents == (0, 0)


def test_a_cost_of_tokens_reads_the_text_that_the_proposers_write():
    texts = [ExhaustiveProposer(TABLE).text(tokens) for tokens in ((), (0, 1), (2,))]
    cost = TokenCost(lambda tokens: float(sum(tokens))).cost(CostInputs(prompts=[""] * 3, answers=texts))
    assert cost.dtype is torch.float32
    assert cost.tolist() == [0.0, 1.0, 2.0]
