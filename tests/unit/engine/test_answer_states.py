"""Sums over the states of an answer's own tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steerguard.engine.active import activity
from steerguard.engine.answer_states import AnswerSums, NewestStates
from steerguard.errors import GuidanceDidNotFireError


def _states(seed, rows=3):
    return torch.randn(rows, 2, 4, generator=torch.Generator().manual_seed(seed))


def test_what_counts_is_summed_by_row_and_the_newest_is_kept():
    sums, steps = AnswerSums.nothing(3, 2, 4, torch.device("cpu")), [_states(seed) for seed in range(4)]
    lengths = torch.tensor([4, 2, 0])
    for number, states in enumerate(steps):
        sums = sums.plus(states, lengths > number)
    found = sums.inputs()
    assert found.read.tolist() == [4, 2, 0]
    assert torch.allclose(found.means[0], torch.stack([step[0] for step in steps]).mean(dim=0), atol=1e-6)
    assert torch.allclose(found.means[1], torch.stack([step[1] for step in steps[:2]]).mean(dim=0), atol=1e-6)
    assert torch.equal(found.newest[0], steps[3][0])
    assert torch.equal(found.newest[1], steps[1][1])
    assert not found.means[2].any()


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf])
def test_what_does_not_count_may_hold_anything(spoilt):
    sums = AnswerSums.nothing(2, 2, 4, torch.device("cpu")).plus(_states(0, 2), torch.tensor([True, True]))
    states = torch.full((2, 2, 4), spoilt)
    found = sums.plus(states, torch.tensor([False, True])).inputs()
    assert torch.isfinite(found.means[0]).all()
    assert not torch.isfinite(found.means[1]).any()


def test_rows_are_taken_in_the_order_given_and_several_times():
    sums = AnswerSums.nothing(3, 2, 4, torch.device("cpu")).plus(_states(1), torch.tensor([True, False, True]))
    taken = sums.rows(torch.tensor([2, 0, 2]))
    assert torch.equal(taken.sums, sums.sums[[2, 0, 2]])
    assert taken.read.tolist() == [1, 1, 1]


class _Request:
    owner, passing, permits_forward = object(), None, True

    def end(self):
        pass


def test_hooks_take_the_newest_column_of_their_own_request_alone():
    request, blocks = _Request(), [nn.Identity(), nn.Identity()]
    newest = NewestStates((1, 0), request)
    for block, hook in newest.hooks().items():
        blocks[block].register_forward_hook(hook)
    hidden = torch.randn(2, 3, 4, dtype=torch.float64).to(torch.bfloat16)
    with activity(request):
        blocks[0](hidden)
        blocks[1](hidden * 2)
    with activity(_Request()):
        blocks[0](torch.zeros_like(hidden))
    found = newest.take()
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.stack([hidden[:, -1] * 2, hidden[:, -1]], dim=1).float())
    with activity(request):
        blocks[0](hidden)
    with pytest.raises(GuidanceDidNotFireError, match="no state of block 1"):
        newest.take()
