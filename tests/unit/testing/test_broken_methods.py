"""`assert_conforms` refuses methods that do something else than they declare, and passes unusual ones that are right."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal

import pytest
import torch
from pydantic import PrivateAttr

from steerguard.decision import Decision, Dose, Usage
from steerguard.errors import ConformanceError, UnsupportedPlanError
from steerguard.guidance.intervention import (
    Ablate,
    Affine,
    Clamp,
    Constant,
    FirstSteps,
    Intervention,
    LinearGate,
    Operated,
    VerdictGate,
)
from steerguard.guidance.rolling_guard.bind import bind as bind_rolling_guard
from steerguard.methods.spec import Footprint, GuidanceSpec
from steerguard.models.blocks import decoder_blocks
from steerguard.testing import assert_conforms, tiny_model
from steerguard.testing.guarantees_of_rows import run_alone
from steerguard.testing.trial import STEP

WIDTH = 32
ONES = torch.ones(WIDTH)
UNIT = ONES / WIDTH**0.5
CLAMP = Clamp(direction=UNIT, at_least=None, at_most=0.0)


class OwnSpec(GuidanceSpec):
    """A method that needs no artifact and declares what a test says."""

    method: Literal["own"] = "own"
    coefficient: float = 1.0
    _declared: dict[str, Any] = PrivateAttr(default_factory=dict)

    def artifact_needs(self):
        return ()

    def features(self):
        return frozenset()

    def footprint(self, parameters):
        plain = {"steered_blocks": (2,), "read_blocks": (), "strength": "1.0", "positions": "all"}
        return Footprint(**{**plain, **self._declared})

    def needs_buffered_stream(self):
        return False

    def summary(self):
        return "does what a test says"


def _spec(**declared):
    spec = OwnSpec(id=STEP)
    spec._declared.update(declared)
    return spec


def _item(block=2, vector=ONES, positions="all", point="resid_post", operator=None, gate=None):
    if operator is None:
        schedule = Constant(vector=vector, positions=positions)
    else:
        schedule = Operated(operator=operator, positions=positions)
    return Intervention(step=STEP, block=block, schedule=schedule, gate=gate or VerdictGate(), point=point)


def _tried(spec, items, model=None, guarantees=(1, 2, 3, 4, 6, 7, 8), install=None):
    """Try a method that binds these interventions, and nothing at coefficient 0; the first time it may do more."""
    pending = [install] if install else []

    def bind(step, _artifacts):
        while pending:
            pending.pop()(model)
        return items if float(step.coefficient) else []

    assert_conforms(spec, model or tiny_model("llama"), bind=bind, guarantees=guarantees)


DECLARED_OTHERWISE = {
    "binds nothing": ({}, [], "blocks 2", "blocks none"),
    "all, and only decode": ({}, [_item(positions="decode")], "all", "decode"),
    "all, and only prefill": ({}, [_item(positions="prefill")], "all", "prefill"),
    "decode, and all": ({"positions": "decode"}, [_item()], "decode", "all"),
    "three steps, and four": (
        {"positions": "first_steps", "first_steps": 3},
        [_item(positions=FirstSteps(4))],
        "first_steps: 3",
        "first_steps: 4",
    ),
    "block 2, and 2 and 3": ({}, [_item(), _item(block=3)], "blocks 2", "block 3"),
    "blocks 2 and 3, and only 2": ({"steered_blocks": (2, 3)}, [_item()], "blocks 2, 3", "blocks 2"),
    "adds, and ablates": ({}, [_item(operator=Ablate(direction=UNIT))], "add", "ablate"),
    "no gate, and one": (
        {},
        [_item(gate=LinearGate(weight=ONES, bias=0.0))],
        "gates at blocks none",
        "a gate at block 2",
    ),
}


@pytest.mark.parametrize("case", DECLARED_OTHERWISE)
def test_a_method_that_binds_something_else_than_it_declares_is_refused(case):
    declared, items, expected, found = DECLARED_OTHERWISE[case]
    with pytest.raises(ConformanceError, match="Guarantee 6, what is said to act acts") as caught:
        _tried(_spec(**declared), items)
    assert (caught.value.expected, caught.value.found) == (expected, found)
    assert isinstance(caught.value.__cause__, UnsupportedPlanError)


def _watches(change):
    def bind(step, artifacts):
        return tuple(change(watch) for watch in bind_rolling_guard(step, artifacts))

    return bind


UNREAD = {
    "no watch": (lambda _step, _artifacts: (), "the blocks that are read at generated tokens"),
    "a read after the trial": (
        _watches(lambda watch: dataclasses.replace(watch, first=4096)),
        "reads none of the trial",
    ),
    "another threshold": (_watches(lambda watch: dataclasses.replace(watch, threshold=math.inf)), "the threshold"),
    "more reads kept": (_watches(lambda watch: dataclasses.replace(watch, in_a_row=2)), "the reads that a row keeps"),
}


@pytest.mark.parametrize("case", UNREAD)
def test_a_method_that_does_not_read_the_answers_it_declares_is_refused(case):
    bind, words = UNREAD[case]
    with pytest.raises(ConformanceError, match=words):
        assert_conforms(
            "rolling_guard", tiny_model("llama"), settings={"threshold": {"value": 0.0}}, bind=bind, guarantees=[6]
        )


def _undone(rows, when):
    """Hooks that put back, in some rows and passes, what block 2 gave before it was changed."""

    def install(model):
        kept = []

        def keep(_module, _inputs, output):
            kept[:] = [output]

        def put_back(_module, inputs):
            hidden = inputs[0]
            if when(hidden.shape[1]) and hidden.shape[0] == 8:
                undone = torch.tensor([row in rows for row in range(8)])
                return (torch.where(undone[:, None, None], kept[0], hidden), *inputs[1:])
            return None

        second, third = decoder_blocks(model)[2:4]
        second.register_forward_hook(keep)
        third.register_forward_pre_hook(put_back)

    return install


def _late(model):
    steps = [0]

    def change(_module, _inputs, output):
        steps[0] = 0 if output.shape[1] > 1 else steps[0] + 1
        return output + 1.0 if steps[0] >= 5 else None

    decoder_blocks(model)[2].register_forward_hook(change)


def _by_batch_size(model):
    def change(_module, _inputs, output):
        return torch.cat([output[:3], output[3:] * output.shape[0] ** 0.5])

    decoder_blocks(model)[2].register_forward_hook(change)


EVERY_ROW = range(8)
HOOKED = {
    "forgets one row": (_undone([3], lambda _columns: True), [6], "other positions were changed"),
    "undoes the prompt": (_undone(EVERY_ROW, lambda columns: columns > 1), [6], "other positions were changed"),
    "undoes the answer": (_undone(EVERY_ROW, lambda columns: columns == 1), [6], "other positions were changed"),
    "changes all from decode step 5 on": (_late, [1], "a row whose gate is closed was changed"),
    "depends on the batch size": (_by_batch_size, [3], "logits differ"),
}


@pytest.mark.parametrize("case", HOOKED)
def test_a_method_that_does_something_beside_what_it_binds_is_refused(case):
    install, guarantees, words = HOOKED[case]
    model = tiny_model("llama")
    with pytest.raises(ConformanceError, match=words) as caught:
        _tried(_spec(), [_item()], model=model, guarantees=guarantees, install=install)
    if case == "forgets one row":
        assert caught.value.where == "row 3, in front of block 3, prefill"


RIGHT = {
    "input of 1, output of 2": (
        {"steered_blocks": (1, 2), "points": ("resid_pre", "resid_post")},
        [_item(block=1, point="resid_pre"), _item()],
    ),
    "two at one place": ({}, [_item(), _item(vector=torch.arange(float(WIDTH)))]),
    "two gates at one place": (
        {"read_blocks": (2,)},
        [_item(gate=LinearGate(weight=sign * UNIT, bias=0.0)) for sign in (1.0, -1.0)],
    ),
    "clamp": ({"operator": "clamp"}, [_item(operator=CLAMP)]),
    "clamp in front of clamp": (
        {"operator": "clamp", "steered_blocks": (1, 2)},
        [_item(block=1, operator=CLAMP), _item(operator=CLAMP)],
    ),
    "block 1 decode, block 2 all": ({"steered_blocks": (1, 2)}, [_item(block=1, positions="decode"), _item()]),
    "last block": ({"steered_blocks": (3,)}, [_item(block=3)]),
    "first steps": ({"positions": "first_steps", "first_steps": 3}, [_item(positions=FirstSteps(3))]),
    "affine": (
        {"operator": "affine", "rank": 1},
        [_item(operator=Affine(outputs=ONES[:, None], inputs=ONES[:, None] / WIDTH, bias=torch.zeros(WIDTH)))],
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_an_unusual_method_that_is_right_conforms(case):
    declared, items = RIGHT[case]
    _tried(_spec(**declared), items)


@functools.cache
def _model():
    return tiny_model("llama")


@pytest.mark.parametrize("undone", ["block 1", "block 2"])
def test_each_block_is_judged_where_nothing_in_front_of_it_was_changed(undone):
    items = [_item(block=1, positions="decode"), _item()]
    silent = {"block 1": 0, "block 2": 1}[undone]
    items[silent] = dataclasses.replace(
        items[silent], schedule=dataclasses.replace(items[silent].schedule, vector=torch.zeros(WIDTH))
    )
    with pytest.raises(ConformanceError, match="Guarantee 6"):
        _tried(_spec(steered_blocks=(1, 2)), items, model=_model(), guarantees=[6])


def _decision(row, intended):
    doses = ()
    if intended == "guide":
        doses = (Dose(step=STEP, method="own", open_blocks=(2,), coefficient="1.0", positions=1, expected_positions=1),)
    return Decision(
        request="r",
        row=row,
        mode="enforce",
        readings=(),
        rules=(),
        cause="rule",
        intended=intended,
        applied=intended,
        doses=doses,
        usage=Usage(prompt_tokens=1, generated_tokens=0, extra_forward_tokens=0),
    )


def test_rows_of_either_verdict_are_also_run_alone():
    split = [_decision(row, "guide" if row in (3, 5, 6) else "allow") for row in range(8)]
    assert run_alone(split) == [0, 3, 6, 7]
    assert run_alone(split[:1]) == [0]
