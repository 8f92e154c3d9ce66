"""Guarantees 1 to 4 on every model class that docs/models.md names, and with images and sounds in the batch."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    conversation,
    guarded,
    policy,
    prompts,
    run,
    same_rows,
    shared_model,
    state_of,
)
from tests.multimodal_prompts import MULTIMODAL_CLASSES, modality_prompts

from steerguard.testing import Architecture, tiny_model
from steerguard.testing.text_configs import SLIDING_WINDOW

EVERY_MODALITY = "text, image, audio, video"
MODEL_CLASSES = get_args(Architecture)
NEW_CLASSES = [name for name in MODEL_CLASSES if name not in ARCHITECTURES]
"""Classes that the other conformance tests do not run."""


def _policy(threshold, action="guide", **named):
    return policy(threshold, action, modalities=EVERY_MODALITY, **named)


def _scores(model, batch):
    with guarded(model, _policy(0.0), mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
    return [report.readings[0].score for report in reports]


def _split(model, batch):
    """A threshold that the upper half of the rows reaches; scores within its tolerance count as reaching it."""
    with guarded(model, _policy(0.0), mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=1, do_sample=False)
        (tolerance,) = wrapped.guard.plan.tolerances.values()
    scores = sorted(report.readings[0].score for report in reports)
    return (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2 + tolerance


def _run_beside(model, batch, document, **settings):
    """Return the unguided run, the guided one and its reports."""
    plain = run(model, batch, **settings)
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        steered = run(wrapped, batch, **settings)
    return plain, steered, reports


def _differs(plain, steered, row):
    return any(not torch.equal(one[row], other[row]) for one, other in zip(plain[1], steered[1], strict=False))


def _closed(reports):
    return [report.row for report in reports if report.intended == "allow"]


@pytest.mark.parametrize(
    ("dtype", "side"),
    [(torch.float32, "left"), (torch.float32, "right"), (torch.bfloat16, "left")],
    ids=["float32 left", "float32 right", "bfloat16 left"],
)
@pytest.mark.parametrize("architecture", MODEL_CLASSES)
def test_closed_rows_are_bit_identical_beside_open_ones(architecture, dtype, side):
    model = shared_model(architecture, dtype)
    batch = prompts(8, side)
    plain, steered, reports = _run_beside(model, batch, _policy(_split(model, batch)))
    closed = _closed(reports)
    assert len(closed) == 4
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    opened = [row for row in range(8) if row not in closed]
    assert all(_differs(plain, steered, row) for row in opened)
    assert all(report.doses for report in reports if report.row in opened)


@pytest.mark.parametrize("architecture", MULTIMODAL_CLASSES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_closed_rows_are_bit_identical_where_every_second_row_has_an_image_or_a_sound(architecture, side):
    model = shared_model(architecture)
    batch = modality_prompts(architecture, side=side)
    plain, steered, reports = _run_beside(model, batch, _policy(_split(model, batch)))
    closed = _closed(reports)
    assert len(closed) == 4
    assert same_rows(closed, plain, steered, batch["input_ids"].shape[1])
    opened = [row for row in range(8) if row not in closed]
    assert all(_differs(plain, steered, row) for row in opened)


@pytest.mark.parametrize("architecture", NEW_CLASSES)
def test_a_score_depends_neither_on_padding_side_nor_on_the_rows_beside(architecture):
    model = shared_model(architecture)
    left, right = (torch.tensor(_scores(model, prompts(6, side))) for side in ("left", "right"))
    alone = torch.tensor(_scores(model, prompts(1)))
    assert left.std() > 1e-3
    assert (left - right).abs().max() < 1e-4
    assert (left[:1] - alone).abs().max() < 1e-4


@pytest.mark.parametrize("architecture", NEW_CLASSES)
def test_decoding_without_a_cache_gives_the_same_verdicts_and_doses_and_nearly_the_same_numbers(architecture):
    model = shared_model(architecture)
    batch = prompts(4)
    document = _policy(_split(model, batch))
    found = []
    with guarded(model, document) as wrapped:
        for use_cache in (True, False):
            with wrapped.guard.collect() as reports:
                _, logits = run(wrapped, batch, use_cache=use_cache, max_new_tokens=5, min_new_tokens=5)
            found.append((logits, [(report.intended, report.doses) for report in reports]))
    assert found[0][1] == found[1][1]
    assert any(doses for _, doses in found[0][1])
    for one, other in zip(found[0][0], found[1][0], strict=True):
        assert torch.allclose(one, other, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", NEW_CLASSES)
def test_a_call_leaves_every_hook_weight_and_attribute_as_it_was(architecture):
    model = shared_model(architecture)
    # The first generation of a model may fill caches of transformers itself.
    run(model, prompts(2))
    before = state_of(model)
    with guarded(model, _policy(-1e6)) as wrapped:
        inside = state_of(wrapped)
        run(wrapped, prompts(2))
        wrapped.guard.check(conversation("hello"))
        assert state_of(wrapped) == inside
    assert state_of(model) == before


def test_sliding_windows_are_exceeded_and_both_kinds_of_attention_are_steered():
    assert prompts(8)["attention_mask"].sum(dim=1).min() > SLIDING_WINDOW
    for architecture in ("gemma2", "gemma3", "gemma3_vision"):
        model = shared_model(architecture)
        kinds = model.config.get_text_config().layer_types
        with guarded(model, _policy(-1e6)) as wrapped:
            steered = [block for step in wrapped.guard.plan.steps for block in step.blocks]
        assert {kinds[block] for block in steered} == {"sliding_attention", "full_attention"}


def test_with_the_default_expert_kernel_closed_rows_of_olmoe_agree_within_tolerance():
    model = tiny_model("olmoe")
    batch = prompts(8)
    plain, steered, reports = _run_beside(model, batch, _policy(_split(model, batch)))
    closed = _closed(reports)
    assert len(closed) == 4
    for one, other in zip(plain[1], steered[1], strict=False):
        assert (one[closed] - other[closed]).abs().max() < 1e-4
