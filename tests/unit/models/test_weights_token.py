"""What the token of a model's weights notices, and what leaves it as it was."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import fresh_model, prompts, run
from torch import nn

from steerguard.models.weights_token import weights_token


class _Adapted(nn.Linear):
    """A layer with one adapter, switched and scaled as PEFT does it."""

    adapter_layer_names = ("lora_A", "lora_B")

    def __init__(self):
        super().__init__(4, 4)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})
        self._active_adapter = "default"
        self._disable_adapters = False
        self.merged_adapters = []
        self.scaling = {"default": 1.0}


CHANGES = {
    "switched off": lambda layer: setattr(layer, "_disable_adapters", True),
    "another one": lambda layer: setattr(layer, "_active_adapter", "other"),
    "merged": lambda layer: layer.merged_adapters.append("default"),
    "scaled": lambda layer: layer.scaling.update(default=2.0),
    "swapped in place": lambda layer: layer.lora_A["default"].weight.data.add_(1.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_an_adapter_that_leaves_no_trace_in_torch_is_noticed(change):
    layer = _Adapted()
    before = weights_token(layer)
    assert weights_token(layer) == before
    CHANGES[change](layer)
    assert weights_token(layer) != before


def test_generating_leaves_the_token_and_an_edit_in_place_changes_it():
    model = fresh_model()
    before = weights_token(model)
    run(model, prompts(2), max_new_tokens=2)
    assert weights_token(model) == before
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    assert weights_token(model) != before
