from __future__ import annotations

import pytest
import torch
from torch import nn

from steerguard.engine.active import ACTIVE
from steerguard.engine.compiled_places import (
    BEFORE,
    BEHIND,
    Adding,
    CompiledPlace,
    Operating,
    TracedState,
    attribute_of,
    before_block,
    behind_block,
)
from steerguard.engine.hooks import BlockInput
from steerguard.guidance.intervention import Ablate

HIDDEN = torch.arange(8.0).reshape(2, 1, 4)
DELTA = torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[-0.0, -0.0, -0.0, -0.0]]])


@pytest.fixture
def state():
    made = TracedState("block 0")
    made.request, made.count = object(), torch.zeros((), dtype=torch.int64)
    token = ACTIVE.set(made.request)
    yield made
    ACTIVE.reset(token)


def module_with(state, *stages, attribute=BEHIND, is_last=True):
    place = CompiledPlace(state, is_last=is_last)
    place.stages = stages
    module = nn.Identity()
    setattr(module, attribute, place)
    return module


def test_an_open_row_is_changed_and_a_closed_one_keeps_every_bit(state):
    hidden = HIDDEN.clone()
    hidden[1, 0, 0] = -0.0
    changed = behind_block(module_with(state, Adding(DELTA)), (), hidden)
    assert torch.equal(changed[0], hidden[0] + 1)
    assert torch.equal(changed[1].view(torch.int32), hidden[1].view(torch.int32))


def test_stages_act_one_after_the_other(state):
    removed = Operating(Ablate(direction=torch.tensor([1.0, 0.0, 0.0, 0.0])), torch.tensor([True, False]))
    changed = behind_block(module_with(state, Adding(DELTA), removed), (), HIDDEN)
    assert changed[0, 0].tolist() == [0.0, 2.0, 3.0, 4.0]
    assert torch.equal(changed[1], HIDDEN[1])


def test_a_tuple_stays_a_tuple(state):
    changed, rest = behind_block(module_with(state, Adding(DELTA)), (), (HIDDEN, "rest"))
    assert torch.equal(changed, HIDDEN + DELTA)
    assert rest == "rest"


@pytest.mark.parametrize("by_name", [True, False])
def test_an_input_is_replaced_where_it_came(state, by_name):
    module = module_with(state, Adding(DELTA), attribute=BEFORE)
    given = ((), {"hidden_states": HIDDEN, "more": 1}) if by_name else ((HIDDEN, 2), {"more": 1})
    arguments, named = before_block(module, *given)
    found = named["hidden_states"] if by_name else arguments[0]
    assert torch.equal(found, HIDDEN + DELTA)
    assert named["more"] == 1


def test_nothing_happens_for_another_request_or_none(state):
    module = module_with(state, Adding(DELTA))
    state.request = object()
    assert behind_block(module, (), HIDDEN) is None
    state.request = None
    assert behind_block(module, (), HIDDEN) is None
    assert int(state.count) == 0


def test_positions_are_added_up_over_the_places_of_a_pass(state):
    first, last = module_with(state, is_last=False), module_with(state)
    for _ in range(3):
        behind_block(first, (), HIDDEN)
        behind_block(last, (), HIDDEN)
    assert int(state.count) == 6
    # A pass that lacks a place, and one that lacks the last.
    behind_block(last, (), HIDDEN)
    assert int(state.count) == 7
    behind_block(first, (), HIDDEN)
    assert int(state.count) == 7


def test_places_of_one_block_have_attributes_of_their_own():
    assert {attribute_of(1), attribute_of(BlockInput(1))} == {BEHIND, BEFORE}
