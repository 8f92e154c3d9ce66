"""Hooks come with a request and go with it."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from steerguard.engine.active import activity
from steerguard.engine.hooks import (
    BlockHooks,
    BlockInput,
    adding_hook,
    changing_hook,
    entering_hook,
    reading_hook,
    stepping_hook,
)
from steerguard.errors import GuidanceDidNotFireError


class Request:
    """Stands in the context variable as the running request; changes what it is shown."""

    owner = None
    permits_forward = True

    def end(self):
        """Ending changes nothing that these tests look at."""

    def at_block(self, block, hidden):
        return None if block == 0 else hidden + block

    def before_block(self, block, hidden):
        return self.at_block(block, hidden)


def _blocks(count=3):
    blocks = [nn.Identity() for _ in range(count)]
    return BlockHooks(blocks), blocks


def _hook(*_arguments):
    return None


def _installed(blocks):
    return [len(block._forward_hooks) for block in blocks]


def test_every_request_brings_its_own_hooks_and_takes_them_away():
    hooks, blocks = _blocks()
    first = hooks.install({0: _hook, 1: _hook})
    second = hooks.install({1: _hook, 2: _hook})
    assert _installed(blocks) == [1, 2, 1]
    first.remove()
    assert _installed(blocks) == [0, 1, 1]
    assert hooks.installed == (1, 2)
    second.remove(keep=[2])
    assert _installed(blocks) == [0, 0, 1]
    second.remove()
    second.remove()
    assert _installed(blocks) == [0, 0, 0]
    assert hooks.installed == ()


def test_installing_is_all_or_nothing():
    hooks, blocks = _blocks()
    with pytest.raises(IndexError):
        hooks.install({0: _hook, 1: _hook, 9: _hook})
    assert _installed(blocks) == [0, 0, 0]
    assert hooks.installed == ()


def test_many_threads_leave_nothing_behind():
    hooks, blocks = _blocks()

    def work():
        for _ in range(200):
            installed = hooks.install({0: _hook, 2: _hook})
            installed.remove(keep=[2])
            installed.remove()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _installed(blocks) == [0, 0, 0]
    assert hooks.installed == ()


@pytest.mark.parametrize("measures", [False, True])
def test_a_hook_acts_for_its_own_request_only(measures):
    request, other, passes = Request(), Request(), {1: 0}
    hidden = torch.zeros(2, 1, 4)
    for hook in (reading_hook(request, 1), adding_hook(request, 1, torch.ones(2, 1, 4), passes, measures=measures)):
        assert hook(None, (), hidden) is None
        with activity(other):
            assert hook(None, (), hidden) is None
        with activity(request):
            assert torch.equal(hook(None, (), hidden), torch.ones(2, 1, 4))
    assert passes == {1: 1}


@pytest.mark.parametrize("measures", [False, True])
def test_the_rest_of_a_tuple_passes_through(measures):
    request, rest = Request(), object()
    hidden = torch.zeros(2, 1, 4)
    for hook in (reading_hook(request, 1), adding_hook(request, 1, torch.ones(2, 1, 4), {1: 0}, measures=measures)):
        with activity(request):
            changed = hook(None, (), (hidden, rest))
        assert torch.equal(changed[0], torch.ones(2, 1, 4))
        assert changed[1] is rest
    with activity(request):
        assert reading_hook(request, 0)(None, (), (hidden, rest)) is None


def test_only_the_measuring_hook_sees_the_width_of_a_pass():
    request, passes = Request(), {1: 0, 2: 0}
    with activity(request):
        adding_hook(request, 1, torch.ones(2, 1, 4), passes, measures=True)(None, (), torch.zeros(2, 3, 4))
        adding_hook(request, 2, torch.ones(2, 1, 4), passes, measures=False)(None, (), torch.zeros(2, 3, 4))
    assert passes == {1: 3, 2: 1}


@pytest.mark.parametrize("rest", [None, torch.full((2, 1, 4), 9.0)], ids=["nothing after", "a constant after"])
@pytest.mark.parametrize("in_tuple", [False, True], ids=["tensor", "tuple"])
def test_a_stepping_hook_adds_one_tensor_after_the_other_for_its_own_request_only(rest, in_tuple):
    request, passes, kept = Request(), {1: 0}, object()
    hidden = torch.zeros(2, 1, 4)
    output = (hidden, kept) if in_tuple else hidden
    hook = stepping_hook(request, 1, [torch.full((2, 1, 4), float(step)) for step in (1, 2)], rest, passes)
    assert hook(None, (), output) is None
    with activity(Request()):
        assert hook(None, (), output) is None
    assert passes == {1: 0}
    found = []
    with activity(request):
        for _ in range(4):
            changed = hook(None, (), output)
            assert changed is None or not in_tuple or changed[1] is kept
            found.append(None if changed is None else (changed[0] if in_tuple else changed).unique().item())
    assert found == [1, 2, *([None, None] if rest is None else [9, 9])]
    assert passes == {1: 4}


def test_a_stepping_hook_counts_every_position_of_a_pass():
    request, passes = Request(), {1: 0}
    with activity(request):
        stepping_hook(request, 1, [torch.ones(2, 1, 4)], None, passes)(None, (), torch.zeros(2, 3, 4))
    assert passes == {1: 3}


def test_inputs_and_outputs_of_a_block_are_places_of_their_own():
    hooks, blocks = _blocks()
    installed = hooks.install({BlockInput(1): lambda *_: None, 1: _hook, BlockInput(2): lambda *_: None})
    assert _installed(blocks) == [0, 1, 0]
    assert [len(block._forward_pre_hooks) for block in blocks] == [0, 1, 1]
    assert hooks.installed == (1, 2)
    installed.remove(keep=[BlockInput(1)])
    assert hooks.installed == (1,)
    assert [len(block._forward_pre_hooks) for block in blocks] == [0, 1, 0]
    installed.remove()
    assert hooks.installed == ()
    assert not any(block._forward_pre_hooks_with_kwargs for block in blocks)


@pytest.mark.parametrize("by_name", [False, True], ids=["by position", "by name"])
def test_an_entering_hook_changes_the_hidden_states_and_nothing_else_for_its_own_request_only(by_name):
    request, hidden, kept = Request(), torch.zeros(2, 1, 4), object()
    arguments, named = ((), {"hidden_states": hidden, "mask": kept}) if by_name else ((hidden, kept), {"cache": kept})
    stages = [lambda _step, states: states + 1, lambda step, states: states + step]
    passes = {BlockInput(1): 0}
    for hook in (entering_hook(request, 1), changing_hook(request, BlockInput(1), stages, passes)):
        assert hook(None, arguments, named) is None
        with activity(request):
            found, found_named = hook(None, arguments, named)
        states = found_named["hidden_states"] if by_name else found[0]
        assert torch.equal(states, torch.ones(2, 1, 4))
        assert (found_named["mask"] if by_name else found[1]) is kept
        assert torch.equal(hidden, torch.zeros(2, 1, 4))
    assert passes == {BlockInput(1): 1}
    with activity(request):
        assert entering_hook(request, 0)(None, arguments, named) is None


def test_a_block_that_is_called_without_hidden_states_raises():
    request = Request()
    with activity(request), pytest.raises(GuidanceDidNotFireError, match="input of block 1"):
        entering_hook(request, 1)(None, (), {"states": torch.zeros(1)})


@pytest.mark.parametrize("in_tuple", [False, True], ids=["tensor", "tuple"])
def test_a_changing_hook_runs_its_stages_in_order_and_counts_positions(in_tuple):
    request, passes, kept = Request(), {1: 0}, object()
    stages = [lambda _step, states: states + 1, lambda step, states: states * (step + 2)]
    hidden = torch.zeros(2, 3, 4)
    hook = changing_hook(request, 1, stages, passes)
    assert hook(None, (), hidden) is None
    with activity(request):
        for wanted in (2.0, 5.0):
            changed = hook(None, (), (hidden, kept) if in_tuple else hidden)
            assert not in_tuple or changed[1] is kept
            assert (changed[0] if in_tuple else changed).unique().item() == wanted
    assert passes == {1: 6}
