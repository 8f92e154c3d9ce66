"""What a schedule adds where: the tensors and the host's count agree, for every row's own prompt end and prefill."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steerguard.engine.additions import Additions
from steerguard.engine.schedules import (
    changes_answer,
    ending_vector,
    expected_positions,
    parts_of,
    position_numbers,
    steady_vector,
)
from steerguard.guidance.intervention import ByPhase, ByStep, Constant, FirstSteps, Intervention, Phases, VerdictGate

WIDTH = 4
PROMPT, LAST, DECODE = (torch.full((WIDTH,), value) for value in (1.0, 2.0, 3.0))
STEPS = tuple(torch.full((WIDTH,), 10.0 + step) for step in range(3))
SCHEDULES = {
    "phase": ByPhase(prompt=PROMPT, last=LAST, decode=DECODE),
    "phase without prompt": ByPhase(prompt=None, last=LAST, decode=DECODE),
    "phase without answer": ByPhase(prompt=PROMPT, last=None, decode=None),
    "steps": ByStep(prompt=PROMPT, last=LAST, steps=STEPS),
    "steps with a gap": ByStep(prompt=None, last=None, steps=(None, STEPS[1], None, STEPS[2])),
    "no steps": ByStep(prompt=PROMPT, last=LAST, steps=()),
    "constant": Constant(vector=DECODE, positions="last_prompt_token_and_decode"),
    "first steps": Constant(vector=DECODE, positions=FirstSteps(2)),
    "first steps of a scored answer": Constant(
        vector=DECODE, positions=Phases(prompt=False, last=False, decode=True, steps=2)
    ),
}
ATTENTION = ([1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0])


def _by_hand(schedule, attention, end, column):
    """What one column of one row gets, as a number; written from the words of the schedule."""
    if column < len(attention) and not attention[column]:
        return 0.0
    width = len(attention)
    if isinstance(schedule, Constant):
        if isinstance(schedule.positions, FirstSteps):
            return DECODE[0].item() if width <= column < width + schedule.positions.steps else 0.0
        if isinstance(schedule.positions, Phases):
            behind = sum(attention[end + 1 : column + 1]) + max(column - width + 1, 0)
            return DECODE[0].item() if column > end and behind <= schedule.positions.steps else 0.0
        return DECODE[0].item() if column >= end else 0.0
    if column < end:
        part = schedule.prompt
    elif column == end:
        part = schedule.last
    else:
        answered = sum(attention[end + 1 : column]) + max(column - len(attention), 0)
        if isinstance(schedule, ByPhase):
            part = schedule.decode
        else:
            part = schedule.steps[answered] if answered < len(schedule.steps) else None
    return 0.0 if part is None else part[0].item()


def _intervention(schedule):
    return Intervention(step="s", block=0, schedule=schedule, gate=VerdictGate())


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("fed_back", [0, 1, 5])
def test_passes_over_all_columns_add_what_the_words_say_and_the_host_counts_the_same(schedule, fed_back):
    for back in (0, 1, 2):
        ends = [[column for column, counts in enumerate(row) if counts][-1 - back] for row in ATTENTION]
        additions = Additions(torch.tensor(ATTENTION, dtype=torch.bool), torch.tensor(ends))
        hidden = torch.zeros(len(ATTENTION), len(ATTENTION[0]) + fed_back, WIDTH)
        mask, added = additions.in_pass(_intervention(schedule), hidden)
        result = torch.where(mask[:, :, None], hidden + added, hidden)
        for row, (attention, end) in enumerate(zip(ATTENTION, ends, strict=True)):
            by_hand = [_by_hand(schedule, attention, end, column) for column in range(hidden.shape[1])]
            assert result[row, :, 0].tolist() == by_hand
            counted = expected_positions(schedule, attention=attention, end=end, fed_back=fed_back)
            assert mask[row].sum().item() == counted == sum(value != 0 for value in by_hand)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("fed_back", [0, 3])
def test_columns_of_images_are_left_alone_but_keep_their_numbers(schedule, fed_back):
    ends = [3, 2, 2, 3]
    texts = [[1, 0, 0, 1, 0], [1, 1, 1, 0, 1], [0, 1, 1, 1, 1], [1, 0, 1, 1, 0]]
    additions = Additions(torch.tensor(ATTENTION).bool(), torch.tensor(ends), torch.tensor(texts).bool())
    hidden = torch.zeros(len(ATTENTION), len(ATTENTION[0]) + fed_back, WIDTH)
    whole, changed = additions.in_pass(_intervention(schedule), hidden)
    mask, same = additions.in_pass(replace(_intervention(schedule), modality_tokens="exclude"), hidden)
    assert torch.equal(changed, same)
    assert torch.equal(mask[:, 5:], whole[:, 5:])
    assert torch.equal(mask[:, :5], whole[:, :5] & torch.tensor(texts).bool())
    for first in (1, 4):
        chunk = hidden[:, first:5]
        places, _ = additions.in_pass(replace(_intervention(schedule), modality_tokens="exclude"), chunk, first=first)
        assert torch.equal(places, mask[:, first:5])
    for row, (attention, end) in enumerate(zip(ATTENTION, ends, strict=True)):
        free = [counts * text for counts, text in zip(attention, texts[row], strict=True)]
        named = {"attention": attention, "end": end, "fed_back": fed_back}
        assert expected_positions(schedule, changeable=free, **named) == mask[row].sum().item()
        assert expected_positions(schedule, **named) == whole[row].sum().item()


GENERATED = {name: schedule for name, schedule in SCHEDULES.items() if "scored" not in name}


@pytest.mark.parametrize("schedule", GENERATED.values(), ids=GENERATED)
def test_decode_steps_add_what_a_pass_over_all_columns_adds_at_the_same_tokens(schedule):
    mask, ends = torch.tensor(ATTENTION, dtype=torch.bool), torch.tensor([3, 2, 2, 1])
    item, gate = _intervention(schedule), torch.tensor([True, True, False, True])
    additions = Additions(mask, ends)
    left = additions.passes_left(item, gate)
    like = torch.empty(0, WIDTH)
    whole, added = additions.in_pass(item, torch.zeros(4, 5 + 6, WIDTH))
    wanted = torch.where((whole & gate[:, None])[:, :, None], added.expand(4, 11, WIDTH), torch.tensor(-0.0))[:, 5:]
    if isinstance(schedule, ByStep):
        assert left == max(max(len(schedule.steps) - prefilled, 0) for prefilled in (1, 2, 2))
        found = additions.stepped({item: gate}, like, passes=6)
        assert len(found) == 6
        assert additions.changed_in_decode(item, passes=6) == whole[:, 5:].sum(1).tolist()
        assert not whole[gate, 5 + left :].any()
    elif ending_vector(schedule) is not None:
        assert left == 2
        found = additions.stepped({item: gate}, like, passes=6)
        assert len({id(delta) for delta in found}) == 2
        assert additions.changed_in_decode(item, passes=6) == additions.changed_in_decode(item, passes=2) == [2] * 4
        assert additions.changed_in_decode(item, passes=1) == [1] * 4
        assert additions.passes_left(item, torch.zeros_like(gate)) == 0
    else:
        assert left == 0
        found = [additions.steady({item: gate}, like)] * 6
        assert additions.changed_in_decode(item, passes=6) == whole[:, 5:].sum(1).tolist()
    for step, delta in enumerate(found):
        assert delta.shape == (4, 1, WIDTH)
        assert torch.equal(delta[:, 0], wanted[:, step])
        assert torch.signbit(delta[2]).all()


def test_a_position_number_counts_tokens_and_leaves_padding_out():
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=torch.bool)
    numbers, present = position_numbers(prompt_mask=mask, ends=torch.tensor([2, 2]), width=7)
    assert numbers[0, 1:].tolist() == [-1, 0, 1, 2, 3, 4]
    assert [numbers[1, column].item() for column in (0, 1, 2, 5, 6)] == [-2, -1, 0, 1, 2]
    assert present[:, :5].equal(mask)
    assert present[:, 5:].all()


def test_tables_follow_the_type_that_they_are_added_to():
    parts = parts_of(SCHEDULES["steps"], like=torch.empty(0, WIDTH, dtype=torch.bfloat16))
    assert parts.table.dtype == torch.bfloat16
    assert parts.active.tolist() == [True, True, True, True, True, False]


def test_only_what_the_answer_gets_alike_is_steady():
    assert steady_vector(SCHEDULES["phase"]) is DECODE
    assert steady_vector(SCHEDULES["steps"]) is None
    assert steady_vector(SCHEDULES["first steps"]) is steady_vector(SCHEDULES["first steps of a scored answer"]) is None
    assert ending_vector(SCHEDULES["first steps"]) == (DECODE, 2)
    assert {name for name, schedule in SCHEDULES.items() if ending_vector(schedule)} == {"first steps"}
    assert steady_vector(Constant(vector=LAST, positions="prefill")) is None
    changing = {name for name, schedule in SCHEDULES.items() if changes_answer(schedule)}
    assert set(SCHEDULES) - changing == {"phase without answer", "no steps"}


def test_a_constant_and_a_stepped_vector_on_one_block_add_up_and_the_constant_stays():
    mask, ends = torch.ones(2, 3, dtype=torch.bool), torch.tensor([2, 2])
    constant, stepped = _intervention(SCHEDULES["constant"]), _intervention(SCHEDULES["steps"])
    gates = {constant: torch.tensor([True, False]), stepped: torch.tensor([True, True])}
    additions = Additions(mask, ends)
    like = torch.empty(0, WIDTH)
    first, second, third = additions.stepped(gates, like, passes=3)
    assert [delta[:, 0, 0].tolist() for delta in (first, second, third)] == [[13, 10], [14, 11], [15, 12]]
    rest = additions.steady(gates, like)
    assert rest[:, 0, 0].tolist() == [3.0, 0.0]
    assert torch.signbit(rest[1]).all()


@pytest.mark.parametrize(
    "names", [("first steps", "steps"), ("constant", "first steps", "steps"), ("constant", "first")]
)
def test_what_ends_early_adds_up_with_what_stays_and_with_steps(names):
    mask, ends = torch.ones(2, 3, dtype=torch.bool), torch.tensor([2, 2])
    known = SCHEDULES | {"first": Constant(vector=LAST, positions=FirstSteps(4))}
    gates = {_intervention(known[name]): torch.tensor([True, index == 0]) for index, name in enumerate(names)}
    like = torch.empty(0, WIDTH)
    additions = Additions(mask, ends)
    wanted = torch.zeros(5, 2)
    for item, gate in gates.items():
        whole, added = additions.in_pass(item, torch.zeros(2, 8, WIDTH))
        wanted += (whole & gate[:, None])[:, 3:].T * added.expand(2, 8, WIDTH)[:, 3:, 0].T
    passes = max(additions.passes_left(item, gate) for item, gate in gates.items())
    found = additions.stepped(gates, like, passes=passes)
    rest = additions.steady(gates, like)
    assert [delta[:, 0, 0].tolist() for delta in found] == wanted[:passes].tolist()
    assert [rest[:, 0, 0].tolist()] * (5 - passes) == wanted[passes:].tolist()
    kept = {id(delta) for delta in found}
    assert len(kept) == (passes if "steps" in names else 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_steps_of_a_block_lie_in_one_tensor_of_just_their_size(dtype):
    mask, ends = torch.ones(2, 3, dtype=torch.bool), torch.tensor([2, 2])
    gates = {_intervention(SCHEDULES[name]): torch.tensor([True, False]) for name in ("steps", "steps with a gap")}
    found = Additions(mask, ends).stepped(gates, torch.empty(0, WIDTH, dtype=dtype), passes=5)
    assert [delta[0, 0, 0].item() for delta in found] == [10, 22, 12, 12, 0]
    assert all(torch.signbit(delta[1]).all() for delta in found)
    assert len({delta.untyped_storage().data_ptr() for delta in found}) == 1
    assert found[0].untyped_storage().nbytes() == 5 * 2 * WIDTH * dtype.itemsize


def test_a_vector_is_converted_once_for_the_passes_of_a_request():
    mask, ends = torch.ones(2, 3, dtype=torch.bool), torch.tensor([2, 2])
    additions, item = Additions(mask, ends), _intervention(SCHEDULES["constant"])
    wide = torch.zeros(2, 3, WIDTH).bfloat16()
    first, second = (additions._converted(item, item.schedule.vector, like) for like in (wide, wide[:, :2]))
    assert first is second
    assert first.dtype == additions.in_pass(item, wide)[1].dtype == torch.bfloat16
    assert additions.in_pass(item, torch.zeros(2, 5, WIDTH))[1].dtype == torch.float32
