"""Fitted vectors make the target say one of the sentences; nothing else changes."""

from __future__ import annotations

import pytest
import torch

from steerguard.build.donor import Lesson, answer_loss
from steerguard.build.fitting import fit_vectors, steered_loss
from steerguard.build.recipe_vectors import FittedRefusalRecipe
from steerguard.testing import tiny_model

PROMPTS = [(5, 6, 7, 8 + index) for index in range(4)]
SENTENCES = [(40, 41, 42, 2), (50, 51, 2)]
KEPT = [Lesson(prompt=(9, 10, 11 + index), answer=(60 + index, 61)) for index in range(4)]


def settings(**changed):
    fields = {
        "type": "steering_vectors",
        "method": "fitted_refusal",
        "sentences": ["a", "b"],
        "blocks": [2, 3],
        "steps": 30,
        "batch_size": 4,
        "learning_rate": 0.3,
    }
    return FittedRefusalRecipe.model_validate({**fields, **changed})


def fitted(model, start=None, seed=0, **changed):
    start = torch.zeros(4, 32) if start is None else start
    return fit_vectors(
        model, start, PROMPTS, SENTENCES, KEPT, settings(**changed), seed=seed, progress=lambda _done: None
    )


def refusals():
    return [Lesson(prompt=prompt, answer=sentence) for prompt in PROMPTS for sentence in SENTENCES]


def test_fitting_lowers_the_loss_of_every_wording():
    model = tiny_model("llama")
    theta, losses = fitted(model)
    assert losses.shape == (30,)
    assert not theta[:2].any()
    for sentence in SENTENCES:
        lessons = [Lesson(prompt=prompt, answer=sentence) for prompt in PROMPTS]
        with torch.no_grad():
            after = float(steered_loss(model, (2, 3), theta[[2, 3]], lessons))
        assert after < 0.9 * float(answer_loss(model, lessons).detach())


def test_keeping_benign_answers_costs_less_on_them():
    model = tiny_model("llama")
    losses = []
    for weight in (0.0, 5.0):
        theta, _ = fitted(model, keep_weight=weight)
        with torch.no_grad():
            losses.append(float(steered_loss(model, (2, 3), theta[[2, 3]], KEPT)))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("positions", ["all", "last_prompt_token_and_decode", "decode", "prefill"])
def test_vectors_are_added_at_the_named_positions_only(positions):
    model = tiny_model("llama")
    seen = {}
    handle = model.model.layers[3].register_forward_hook(lambda *call: seen.update(hidden=call[2]))
    lessons = [Lesson(prompt=(5, 6, 7), answer=(40, 41)), Lesson(prompt=(5, 6), answer=(40,))]
    with torch.no_grad():
        steered_loss(model, (3,), torch.zeros(1, 32), lessons, positions)
        plain = seen["hidden"]
        handle.remove()
        handle = model.model.norm.register_forward_pre_hook(lambda *call: seen.update(hidden=call[1][0]))
        steered_loss(model, (3,), torch.ones(1, 32), lessons, positions)
    handle.remove()
    changed = (seen["hidden"] != plain).any(dim=-1).tolist()
    expected = {
        "all": ([True] * 5, [True] * 3),
        "last_prompt_token_and_decode": ([False, False, True, True, True], [False, True, True]),
        "decode": ([False] * 3 + [True] * 2, [False, False, True]),
        "prefill": ([True] * 3 + [False] * 2, [True, True, False]),
    }[positions]
    # Columns after the end of a row are padding.
    assert (changed[0], changed[1][:3]) == expected


def test_fitting_leaves_the_model_as_it_was():
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fitted(model, keep_weight=1.0, steps=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_seed_fits_the_same_vectors_and_another_does_not():
    first, again, other = (fitted(tiny_model("llama"), torch.ones(4, 32), seed, steps=4)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
