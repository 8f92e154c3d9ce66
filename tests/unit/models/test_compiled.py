from __future__ import annotations

import pytest
import torch
from torch import nn

from steerguard.models.compiled import compiled_container, compiled_forms, compiled_part, uncompiled


def model():
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))


def test_a_plain_model_has_no_compiled_form():
    assert compiled_forms(model()) == ()
    assert compiled_part(model()) is None
    assert compiled_container(model()) is None


def test_every_form_is_set_aside_and_put_back():
    whole = model()
    whole.forward = torch.compile(torch.compile(whole.forward, backend="eager"), backend="eager")
    whole[1].compile(backend="eager")
    before = [dict(vars(module)) for module in whole.modules()]
    with uncompiled(whole):
        assert compiled_forms(whole) == ()
        assert whole(torch.ones(1, 2)).shape == (1, 2)
        assert compiled_part(whole) is None
    assert [dict(vars(module)) for module in whole.modules()] == before
    assert len(compiled_forms(whole)) == 2


def test_forms_come_back_when_the_block_fails():
    whole = model()
    whole.compile(backend="eager")
    kept = whole._compiled_call_impl
    with pytest.raises(RuntimeError, match="a test"), uncompiled(whole):
        raise RuntimeError("a test")
    assert whole._compiled_call_impl is kept


def test_forms_are_put_back_once():
    whole = model()
    whole.compile(backend="eager")
    kept = whole._compiled_call_impl
    with uncompiled(whole) as aside:
        aside.put_back()
        assert whole._compiled_call_impl is kept
        whole._compiled_call_impl = None
        aside.put_back()
    assert whole._compiled_call_impl is None


def test_what_the_app_put_there_meanwhile_stays():
    whole = model()
    whole.compile(backend="eager")
    with uncompiled(whole):
        whole.compile(backend="aot_eager")
        later = whole._compiled_call_impl
    assert whole._compiled_call_impl is later


def test_a_container_is_named():
    whole = model()
    whole[1] = torch.compile(whole[1], backend="eager")
    assert compiled_container(whole) == "1"
    assert compiled_part(whole) == "1"
