"""What is bound must be what the plan's steps declared, at `wrap` too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.guarded_models import guarded, policy, shared_model
from tests.operated_models import intervention, matrix, schedule, vector

from steerguard.engine.declared import Reach, check_declared, reach_of
from steerguard.errors import UnsupportedPlanError
from steerguard.guidance.inferaligner import bind as inferaligner
from steerguard.guidance.intervention import (
    Affine,
    ByPhase,
    ByStep,
    Constant,
    FirstSteps,
    LinearGate,
    Operated,
    Phases,
)

RULES = {
    "all": Phases(prompt=True, last=True, decode=True),
    "last_prompt_token_and_decode": Phases(prompt=False, last=True, decode=True),
    "prefill": Phases(prompt=True, last=True, decode=False),
}


@pytest.fixture(scope="module")
def step():
    with guarded(shared_model(), policy(0.0)) as wrapped:
        (found,) = wrapped.guard.plan.steps
    return replace(found, blocks=(2,), positions="all")


def _stepped(count):
    return ByStep(prompt=None, last=None, steps=(vector(1),) * count)


def _affine(rank):
    operator = Affine(outputs=matrix(1, rank), inputs=matrix(2, rank), bias=torch.zeros(32))
    return Operated(operator=operator, positions="all")


def _constant(positions):
    return Constant(vector=vector(1), positions=positions)


def _item(found, **named):
    return intervention(found, block=2, **named)


SAME = [
    ({}, [_item(_constant("all"))]),
    ({}, [_item(_constant("prefill")), _item(_constant("all"))]),
    ({}, [_item(_constant("prefill")), _item(_constant("decode"))]),
    ({"coefficient": "0.0"}, []),
    ({"blocks": ()}, []),
    ({"read_blocks": (2,)}, [_item(_constant("all"), gate=LinearGate(weight=vector(2), bias=0.0))]),
    ({"schedule": "by_step", "schedule_steps": 3, "positions": None}, [_item(_stepped(3))]),
    ({"schedule": "by_step", "schedule_steps": 3, "positions": None}, [_item(_stepped(1))]),
    ({"schedule": "by_phase", "positions": None}, [_item(ByPhase(prompt=vector(1), last=None, decode=None))]),
    ({"operator": "affine", "rank": 3}, [_item(_affine(2))]),
    ({"modality_tokens": "exclude"}, [replace(_item(_constant("all")), modality_tokens="exclude")]),
    ({"positions": "first_steps", "first_steps": 4}, [_item(_constant(FirstSteps(4)))]),
]
OTHER = [
    ({}, [], "the blocks"),
    ({}, [_item(_constant("decode"))], "the positions"),
    ({"positions": "decode"}, [_item(_constant(FirstSteps(4)))], "the positions"),
    ({"points": ("resid_pre", "resid_post")}, [_item(_constant("all"))], "the points"),
    ({}, [_item(_constant("all"), point="resid_pre")], "the point"),
    ({}, [_item(schedule("clamp"))], "the operator"),
    ({}, [_item(_stepped(1))], "the schedule"),
    ({"schedule": "by_step", "schedule_steps": 2, "positions": None}, [_item(_stepped(3))], "the number of steps"),
    ({"operator": "affine", "rank": 1}, [_item(_affine(2))], "the rank"),
    ({"operator": "affine"}, [_item(_affine(2))], "the rank"),
    ({}, [_item(_constant("all"), gate=LinearGate(weight=vector(2), bias=0.0))], "the gate"),
    ({"modality_tokens": "exclude"}, [_item(_constant("all"))], "modality tokens"),
    ({"id": "another"}, [_item(_constant("all"))], "the entry"),
    ({"positions": "everywhere"}, [_item(_constant("all"))], "no position rule"),
    ({"positions": None}, [_item(_constant("all"))], "no position rule"),
]


@pytest.mark.parametrize(("declared", "items"), SAME)
def test_what_is_declared_passes(step, declared, items):
    check_declared([replace(step, **declared)], items)


@pytest.mark.parametrize(("declared", "items", "words"), OTHER)
def test_what_is_not_declared_is_refused(step, declared, items, words):
    with pytest.raises(UnsupportedPlanError, match=words):
        check_declared([replace(step, **declared)], items)


def test_a_rule_by_name_and_by_phase_reach_the_same_tokens():
    for name, phases in RULES.items():
        named, said = reach_of(name), reach_of(phases)
        assert (named.before, named.last, named.generated) == (said.before, said.last, said.generated)
    assert reach_of(FirstSteps(4)) == Reach(generated=4)
    assert reach_of(FirstSteps(4)).within(reach_of("decode"))
    assert not reach_of("decode").within(reach_of(FirstSteps(4)))
    assert reach_of(Phases(prompt=False, last=False, decode=True, steps=4)).prefilled == 4


def test_wrap_refuses_a_binder_that_forgets_a_block(monkeypatch):
    right = inferaligner.bind
    monkeypatch.setattr(inferaligner, "bind", lambda step, artifacts: right(step, artifacts)[1:])
    with pytest.raises(UnsupportedPlanError, match="in the blocks"), guarded(shared_model(), policy(0.0)):
        pytest.fail("the model was wrapped")
