"""Refined vectors make the target say the sentence; nothing else changes."""

from __future__ import annotations

import torch

from steerguard.build.donor import Lesson, answer_loss
from steerguard.build.recipe import RefinementSettings
from steerguard.build.refinement import refine_vectors, steered
from steerguard.testing import tiny_model

LESSONS = [Lesson(prompt=(5, 6, 7, 8 + index), answer=(40, 41, 42)) for index in range(4)]
SETTINGS = RefinementSettings(steps=30, batch_size=4, learning_rate=0.3)


def refined(model, start, seed=0):
    return refine_vectors(model, start, (2, 3), LESSONS, SETTINGS, seed=seed, progress=lambda _done: None)


def test_refinement_lowers_the_loss_of_the_sentence():
    model = tiny_model("llama")
    start = torch.zeros(4, 32)
    after = refined(model, start)
    with steered(model, (2, 3), after[[2, 3]]), torch.no_grad():
        steered_loss = float(answer_loss(model, LESSONS))
    assert steered_loss < 0.7 * float(answer_loss(model, LESSONS).detach())
    assert not after[:2].any()


def test_refinement_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    refined(model, torch.zeros(4, 32))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_refinement_is_the_same_for_the_same_seed():
    assert torch.equal(refined(tiny_model("llama"), torch.ones(4, 32)), refined(tiny_model("llama"), torch.ones(4, 32)))
