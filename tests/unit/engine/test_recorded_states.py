"""Recording hooks run after ours while a request needs them, and stand where they stood afterwards."""

from __future__ import annotations

import torch
from transformers.utils import output_capturing

from steerguard.engine.recorded_states import RecordedLast


def _recording():
    def hook(*_):
        return None

    hook.__module__ = output_capturing.__name__
    return hook


def test_recording_hooks_move_behind_and_back():
    module = torch.nn.Identity()
    first = module.register_forward_hook(lambda *_: None)
    recording = module.register_forward_hook(_recording())
    later = module.register_forward_hook(lambda *_: None)
    before = list(module._forward_hooks)
    order = RecordedLast()
    ours = module.register_forward_hook(lambda *_: None)
    order.behind([ours])
    assert list(module._forward_hooks) == [first.id, later.id, ours.id, recording.id]
    again = module.register_forward_hook(lambda *_: None)
    order.behind([again])
    assert list(module._forward_hooks)[-2:] == [again.id, recording.id]
    ours.remove()
    again.remove()
    order.restore()
    assert list(module._forward_hooks) == before


def test_a_block_without_recording_hooks_is_left_alone():
    module = torch.nn.Identity()
    ours = module.register_forward_hook(lambda *_: None)
    other = module.register_forward_hook(lambda *_: None)
    order = RecordedLast()
    order.behind([ours])
    assert list(module._forward_hooks) == [ours.id, other.id]
    order.restore()
    assert list(module._forward_hooks) == [ours.id, other.id]
