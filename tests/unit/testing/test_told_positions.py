"""The rule by which the conformance suite tells positions agrees with the count that the engine proves its doses by."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.engine.schedules import expected_positions
from steerguard.guidance.intervention import Ablate, ByPhase, ByStep, Constant, FirstSteps, Operated, Phases
from steerguard.testing.told_positions import acts_at

VECTOR = torch.ones(4)
MAYBE = st.sampled_from([None, VECTOR])
NAMED = st.sampled_from(["all", "last_prompt_token_and_decode", "decode", "prefill"])
PHASES = st.builds(
    Phases, prompt=st.booleans(), last=st.booleans(), decode=st.booleans(), steps=st.none() | st.integers(1, 9)
)
FIRST = st.builds(FirstSteps, st.integers(1, 9))
SCHEDULES = st.one_of(
    st.builds(Constant, vector=st.just(VECTOR), positions=st.one_of(NAMED, PHASES, FIRST)),
    st.builds(Operated, operator=st.just(Ablate(direction=VECTOR / 2)), positions=st.one_of(NAMED, PHASES)),
    st.builds(ByPhase, prompt=MAYBE, last=MAYBE, decode=MAYBE),
    st.builds(ByStep, prompt=MAYBE, last=MAYBE, steps=st.lists(MAYBE, max_size=9).map(tuple)),
)


@given(schedule=SCHEDULES, tokens=st.integers(1, 12), padding=st.integers(0, 3), fed_back=st.integers(0, 12))
def test_told_positions_are_as_many_as_expected(schedule, tokens, padding, fed_back):
    attention = [0] * padding + [1] * tokens
    expected = expected_positions(schedule, attention=attention, end=len(attention) - 1, fed_back=fed_back)
    assert sum(acts_at(schedule, number) for number in range(1 - tokens, fed_back + 1)) == expected
