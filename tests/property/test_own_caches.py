from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.engine.additions import Additions
from steerguard.engine.own_caches import Columns, holds
from steerguard.engine.schedules import first_changed
from steerguard.guidance.intervention import (
    ByPhase,
    ByStep,
    Clamp,
    Constant,
    FirstSteps,
    Intervention,
    Operated,
    Phases,
    VerdictGate,
)

VECTOR = torch.tensor([1.0, 0.0])
NAMED = st.sampled_from(["all", "last_prompt_token_and_decode", "decode", "prefill"])
FLAG = st.booleans()
RULES = st.one_of(
    NAMED,
    st.builds(FirstSteps, steps=st.integers(1, 4)),
    st.builds(Phases, prompt=FLAG, last=FLAG, decode=FLAG),
)
MAYBE = st.sampled_from([None, VECTOR])
SCHEDULES = st.one_of(
    st.builds(Constant, vector=st.just(VECTOR), positions=st.one_of(NAMED, st.builds(FirstSteps, steps=st.integers(1, 4)))),
    st.builds(ByPhase, prompt=MAYBE, last=MAYBE, decode=MAYBE),
    st.builds(ByStep, prompt=MAYBE, last=MAYBE, steps=st.lists(MAYBE, max_size=3).map(tuple)),
    st.builds(
        Operated, operator=st.just(Clamp(direction=VECTOR, at_least=5.0, at_most=5.0)), positions=RULES
    ),
)  # fmt: skip


@st.composite
def prompts_and_caches(draw):
    """What a cache holds, and a longer prompt that differs from it in a few places or none."""
    rows, count, more = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    tokens = st.lists(st.integers(0, 2), min_size=count + more, max_size=count + more)
    shown = st.lists(st.booleans(), min_size=count + more, max_size=count + more)
    ids = torch.tensor([draw(tokens) for _ in range(rows)])
    mask = torch.tensor([draw(shown) for _ in range(rows)])
    held = Columns(ids=ids[:, :count].clone(), mask=mask[:, :count].clone(), in_mean=mask[:, :count].clone())
    for _ in range(draw(st.integers(0, 3))):
        row, column = draw(st.integers(0, rows - 1)), draw(st.integers(0, count + more - 1))
        if draw(FLAG):
            ids[row, column] += 1
        else:
            mask[row, column] = ~mask[row, column]
    return held, ids, mask


@given(prompts_and_caches(), st.integers(0, 3))
def test_a_cache_is_continued_exactly_where_every_visible_token_saw_the_same_tokens(example, fewer):
    held, ids, mask = example
    same, count = True, max(held.count - fewer, 1)
    for row in range(ids.shape[0]):
        for column in (found for found in range(count) if mask[row, found]):
            saw_then = [
                (place, int(held.ids[row, place])) for place in range(column + 1) if held.mask[row, place]
            ]  # fmt: skip
            sees_now = [(place, int(ids[row, place])) for place in range(column + 1) if mask[row, place]]
            same = same and saw_then == sees_now
    assert holds(held, ids, mask, count) == same


@given(SCHEDULES, st.lists(FLAG, min_size=3, max_size=8).filter(any), st.data())
def test_nothing_is_changed_before_the_first_changed_column(schedule, shown, data):
    end = data.draw(st.sampled_from([column for column, visible in enumerate(shown) if visible]))
    item = Intervention(step="s", block=0, schedule=schedule, gate=VerdictGate())
    mask = torch.tensor([shown])
    places, _ = Additions(mask, torch.tensor([end])).in_pass(item, torch.zeros(1, len(shown), 2))
    first = first_changed(schedule, attention=[int(one) for one in shown], end=end)
    assert not places[:, :first].any()
