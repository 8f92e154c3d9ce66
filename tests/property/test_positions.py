"""Laws of position rules: what is counted is what is changed, and rules that say the same do the same, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.engine.additions import Additions
from steerguard.engine.schedules import expected_positions
from steerguard.guidance.intervention import (
    Ablate,
    ByPhase,
    ByStep,
    Constant,
    FirstSteps,
    Intervention,
    Operated,
    Phases,
    VerdictGate,
)

WIDTH = 4
VECTOR = torch.tensor([0.5, -2.0, 3.0, 0.25])
NAMED = st.sampled_from(["all", "last_prompt_token_and_decode", "decode", "prefill"])
FIRST = st.builds(FirstSteps, st.integers(1, 9))
PHASES = st.builds(
    Phases, prompt=st.booleans(), last=st.booleans(), decode=st.booleans(), steps=st.none() | st.integers(1, 9)
)
PARTS = st.none() | st.integers(1, 5).map(lambda factor: VECTOR * factor)
SCHEDULES = st.one_of(
    st.builds(Constant, vector=st.just(VECTOR), positions=NAMED | FIRST | PHASES),
    st.builds(ByPhase, prompt=PARTS, last=PARTS, decode=PARTS),
    st.builds(ByStep, prompt=PARTS, last=PARTS, steps=st.lists(PARTS, max_size=5).map(tuple)),
    st.builds(Operated, operator=st.just(Ablate(direction=VECTOR / VECTOR.norm())), positions=NAMED | PHASES),
)


@st.composite
def batches(draw):
    """Attention, ends and texts of one to three rows of one width; the last token of a generation prompt is text."""
    rows, width = draw(st.integers(1, 3)), draw(st.integers(2, 7))
    attention, ends, texts = [], [], []
    for _ in range(rows):
        before, length = draw(st.integers(0, width - 1)), draw(st.integers(1, width))
        counts = [int(before <= column < before + length) for column in range(width)]
        end = draw(st.sampled_from([column for column, counted in enumerate(counts) if counted]))
        shown = draw(st.lists(st.integers(0, 1), min_size=width, max_size=width))
        attention.append(counts)
        ends.append(end)
        texts.append([1 if column == end else text for column, text in enumerate(shown)])
    return attention, ends, texts


def _intervention(schedule, modality_tokens="include"):
    return Intervention(step="s", block=0, schedule=schedule, gate=VerdictGate(), modality_tokens=modality_tokens)


def _additions(attention, ends, texts=None):
    shown = None if texts is None else torch.tensor(texts).bool()
    return Additions(torch.tensor(attention).bool(), torch.tensor(ends), shown)


def _hidden(attention, fed_back, seed):
    rows, width = len(attention), len(attention[0]) + fed_back
    return torch.randn(rows, width, WIDTH, generator=torch.Generator().manual_seed(seed))


@given(batch=batches(), schedule=SCHEDULES, fed_back=st.integers(0, 9), leaves_out=st.booleans())
def test_the_host_counts_what_a_pass_changes_for_every_schedule(batch, schedule, fed_back, leaves_out):
    attention, ends, texts = batch
    item = _intervention(schedule, "exclude" if leaves_out else "include")
    mask, _ = _additions(attention, ends, texts).in_pass(item, _hidden(attention, fed_back, 0))
    for row, counts in enumerate(attention):
        free = [one * other for one, other in zip(counts, texts[row], strict=True)]
        wanted = expected_positions(
            schedule, attention=counts, end=ends[row], fed_back=fed_back, changeable=free if leaves_out else counts
        )
        assert mask[row].sum().item() == wanted


@given(batch=batches(), fed_back=st.integers(0, 9), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_as_many_first_steps_as_there_are_tokens_are_the_rule_decode_bit_by_bit(batch, fed_back, more, seed):
    attention, ends, _ = batch
    additions, hidden = _additions(attention, ends), _hidden(attention, fed_back, seed)
    every = _intervention(Constant(vector=VECTOR, positions="decode"))
    first = _intervention(Constant(vector=VECTOR, positions=FirstSteps(max(fed_back + more, 1))))
    (mask, changed), (other, same) = (additions.in_pass(item, hidden) for item in (every, first))
    assert torch.equal(mask, other)
    assert torch.equal(changed.view(torch.int32), same.view(torch.int32))
    gate = torch.arange(len(attention)) % 2 == 0
    steady = additions.steady({every: gate}, hidden)
    stepped = additions.stepped({first: gate}, hidden, passes=max(fed_back, 1))
    assert all(torch.equal(delta.view(torch.int32), steady.view(torch.int32)) for delta in stepped)
    assert additions.changed_in_decode(every, passes=fed_back) == additions.changed_in_decode(first, passes=fed_back)


@given(batch=batches(), schedule=SCHEDULES, fed_back=st.integers(0, 5), seed=st.integers(0, 99))
def test_where_there_are_only_texts_leaving_images_out_changes_no_bit(batch, schedule, fed_back, seed):
    attention, ends, texts = batch
    hidden, item = _hidden(attention, fed_back, seed), _intervention(schedule)
    mask, changed = _additions(attention, ends).in_pass(item, hidden)
    for additions in (_additions(attention, ends), _additions(attention, ends, [[1] * len(row) for row in texts])):
        other, same = additions.in_pass(replace(item, modality_tokens="exclude"), hidden)
        assert torch.equal(mask, other)
        assert torch.equal(changed.view(torch.int32), same.view(torch.int32))


@given(batch=batches(), rules=st.lists(FIRST | NAMED, min_size=1, max_size=4), seed=st.integers(0, 99))
def test_what_decode_steps_add_at_one_place_is_what_passes_over_all_columns_add(batch, rules, seed):
    attention, ends, _ = batch
    width, passes = len(attention[0]), 10
    additions, hidden = _additions(attention, ends), torch.zeros(len(attention), width + passes, WIDTH)
    drawn = torch.randn(len(rules), WIDTH, generator=torch.Generator().manual_seed(seed))
    gates, total = {}, torch.zeros_like(hidden)
    for index, rule in enumerate(rules):
        item = _intervention(Constant(vector=drawn[index], positions=rule))
        gates[item] = (torch.arange(len(attention)) + index) % 2 == 0
        mask, added = additions.in_pass(item, hidden)
        total = torch.where((mask & gates[item][:, None])[:, :, None], total + added, total)
    stepped = additions.stepped(gates, hidden, passes=passes)
    assert len(stepped) == passes
    for step, delta in enumerate(stepped):
        assert torch.equal(delta[:, 0], total[:, width + step])
        # Adding must not change a row that gets nothing: not even the sign of a zero.
        nothing = (total[:, width + step] == 0).all(dim=-1)
        assert torch.signbit(delta[nothing]).all()
