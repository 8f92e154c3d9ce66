"""Prompts without their images and sounds: every other token is changed, in every way of generating."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.guarded_models import (
    FAMILIES,
    SCHEDULES,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    splitting_threshold,
    tokenizer,
)
from tests.multimodal_prompts import MULTIMODAL_CLASSES, TOKENS, modality_prompts
from tests.positions_by_hand import assert_equals_numpy, registry, settings_with, vectors_of, watched

from steerguard.errors import UnsupportedPlanError
from steerguard.models.inspect import modality_ids
from steerguard.testing import AUDIO_TOKEN_ID, IMAGE_TOKEN_ID

EVERY_MODALITY = "text, image, audio, video"
WAYS = ({}, {"num_return_sequences": 2, "do_sample": True}, {"num_beams": 2})
IN_CHUNKS = ("llava", "idefics3", "qwen2_5_vl", "gemma3_vision")
PLACEHOLDERS = [IMAGE_TOKEN_ID, AUDIO_TOKEN_ID, 42]
"""What a random model must not write, because no image stands behind it."""


@pytest.mark.parametrize("settings", [{}, {"use_cache": False}, {"num_beams": 2}, {"prefill_chunk_size": 4}], ids=str)
@pytest.mark.parametrize("method", FAMILIES)
def test_without_images_leaving_them_out_changes_no_bit(method, settings):
    model, batch = shared_model("llava"), prompts(6)
    found = []
    for rule in ("include", "exclude"):
        threshold = splitting_threshold("llava", rows=6)
        document = policy(threshold, method=method, settings=settings_with(f"modality_tokens: {rule}"))
        with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
            tokens, logits = run(wrapped, batch, max_new_tokens=5, **settings)
        found.append((tokens, logits, [(report.intended, report.doses) for report in reports]))
    assert found[0][2] == found[1][2]
    assert torch.equal(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_column_but_those_of_images_equals_numpy(side, schedule, use_cache):
    model, batch = shared_model("llava"), modality_prompts("llava", 4, side=side)
    store = registry(schedule, model)
    vectors, ids = vectors_of("inferaligner", store), batch["input_ids"].tolist()
    attention, width = batch["attention_mask"].tolist(), len(ids[0])
    document = policy(-1e6, modalities=EVERY_MODALITY, settings=settings_with("modality_tokens: exclude"))
    with (
        guarded(model, document, registry=store) as wrapped,
        wrapped.guard.collect() as reports,
        watched(model) as seen,
    ):
        run(wrapped, batch, use_cache=use_cache, max_new_tokens=6, min_new_tokens=6, suppress_tokens=PLACEHOLDERS)
    ends = [max(column for column, counts in enumerate(row) if counts) for row in attention]

    def part(block, row, column):
        if column < width and (not attention[row][column] or ids[row][column] == IMAGE_TOKEN_ID):
            return None
        if schedule == "constant":
            return vectors["theta"][block]
        if column <= ends[row]:
            return vectors["theta_last" if column == ends[row] else "theta_prompt"][block]
        if schedule == "by_phase":
            return vectors["theta_decode"][block]
        return vectors["theta_steps"][column - width][block] if column - width < 3 else None

    changed = assert_equals_numpy(seen, part, [True] * 4, lambda index: width + index - 1 if use_cache and index else 0)
    in_answer = 3 if schedule == "by_step" else 5
    texts = [sum(row) - TOKENS * (index % 2 == 0) for index, row in enumerate(attention)]
    assert changed == [2 * (count + in_answer) for count in texts]
    assert [report.doses[0].positions for report in reports] == changed


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        *((name, settings) for name in MULTIMODAL_CLASSES for settings in WAYS),
        *((name, {"prefill_chunk_size": 5}) for name in IN_CHUNKS),
    ],
    ids=str,
)
def test_images_and_sounds_keep_their_states_in_every_way_of_generating(architecture, settings):
    model, batch = shared_model(architecture), modality_prompts(architecture, 2)
    named = {"max_new_tokens": 3, "min_new_tokens": 3, "suppress_tokens": PLACEHOLDERS, **settings}
    document = policy(
        -1e6, modalities=EVERY_MODALITY, method="fitted_refusal", settings=settings_with("modality_tokens: exclude")
    )
    states = []
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        first = min(block for step in wrapped.guard.plan.steps for block in step.blocks)
        with watched(model) as seen:
            run(wrapped, batch, **named)
        before, after = seen[first]
        states = [(one, other) for one, other in zip(before, after, strict=True) if one.shape[1] > 1]
    width, copies = batch["input_ids"].shape[1], states[0][0].shape[0] // 2
    plain = np.concatenate([one for one, _ in states], axis=1)[:, -width:]
    steered = np.concatenate([other for _, other in states], axis=1)[:, -width:]
    ids = batch["input_ids"].repeat_interleave(copies, dim=0).numpy()
    mask = batch["attention_mask"].repeat_interleave(copies, dim=0).numpy().astype(bool)
    placeholders = (ids == IMAGE_TOKEN_ID) | (ids == AUDIO_TOKEN_ID)
    if plain.shape[1] == width:
        assert placeholders.sum() == TOKENS * copies
        moved = (plain != steered).any(axis=-1)
        assert np.array_equal(moved, mask & ~placeholders)
    tokens = mask.sum(axis=1) - placeholders.sum(axis=1)
    found = [report.doses[0].positions for report in reports]
    assert found == [2 * (count + 2) for count in tokens[:: len(tokens) // len(found)]]


def test_closed_rows_with_images_are_the_unguided_run_bit_by_bit():
    model, batch = shared_model("llava"), modality_prompts("llava", 4)
    plain = run(model, batch)
    document = policy(0.0, modalities=EVERY_MODALITY)
    with guarded(model, document, mode="monitor") as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, batch, max_new_tokens=1)
    threshold = sum(sorted(report.readings[0].score for report in reports)[1:3]) / 2
    document = policy(threshold, modalities=EVERY_MODALITY, settings=settings_with("modality_tokens: exclude"))
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports:
        guided = run(wrapped, batch)
    closed = [report.row for report in reports if report.intended == "allow"]
    assert len(closed) == 2
    assert same_rows(closed, plain, guided, batch["input_ids"].shape[1])


def test_a_plan_that_reads_the_prompt_twice_leaves_images_out_too():
    model, batch = shared_model("llava"), modality_prompts("llava", 2)
    store = registry_for(model, probe_blocks=(2, 3), steered_blocks=(1,))
    document = policy(-1e6, modalities=EVERY_MODALITY, settings=settings_with("modality_tokens: exclude"))
    with guarded(model, document, registry=store) as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, batch, max_new_tokens=1)
    lengths = batch["attention_mask"].sum(1).tolist()
    assert [report.doses[0].positions for report in reports] == [lengths[0] - TOKENS, lengths[1]]
    assert [report.usage.extra_forward_tokens for report in reports] == lengths


def test_directions_are_removed_everywhere_but_at_images():
    model, batch = shared_model("llava"), modality_prompts("llava", 2)
    settings = "mode: ablate, blocks: [1], modality_tokens: exclude"
    document = policy(-1e6, modalities=EVERY_MODALITY, method="refusal_direction", settings=settings)
    with guarded(model, document) as wrapped, wrapped.guard.collect() as reports, watched(model) as seen:
        run(wrapped, batch, max_new_tokens=1)
    # The verdict comes late here, so the first pass only reads.
    before, after = seen[1]
    moved = (before[-1] != after[-1]).any(axis=-1)
    texts = (batch["attention_mask"].bool() & (batch["input_ids"] != IMAGE_TOKEN_ID)).numpy()
    assert np.array_equal(moved, texts)
    assert [report.doses[0].positions for report in reports] == (2 * texts.sum(axis=1)).tolist()


def test_a_scored_answer_has_no_images_whatever_its_ids():
    # A prompt that holds the id without an image counts it as one, as it does for prompt means.
    model, batch = shared_model("llava"), modality_prompts("llava", 2)
    letter = tokenizer()("a", add_special_tokens=False)["input_ids"][0]
    answer = torch.tensor([[letter, IMAGE_TOKEN_ID, letter]]).repeat(2, 1)
    ids = torch.cat([batch["input_ids"], answer], 1)
    mask = torch.cat([batch["attention_mask"], torch.ones_like(answer)], 1)
    document = policy(-1e6, modalities=EVERY_MODALITY, settings=settings_with("modality_tokens: exclude"))
    with guarded(model, document) as wrapped, wrapped.guard.forward() as scoring:
        wrapped(input_ids=ids, attention_mask=mask)
    lengths = mask.sum(1).tolist()
    assert [row.doses[0].positions for row in scoring.decisions[-1]] == [2 * (lengths[0] - TOKENS), 2 * lengths[1]]


def test_a_model_that_does_not_say_which_ids_are_images_is_refused():
    model = fresh_model("smolvlm")
    object.__setattr__(model.config, "image_token_id", None)
    assert modality_ids(model) == ()
    document = policy(-1e6, modalities=EVERY_MODALITY, settings="modality_tokens: exclude")
    with pytest.raises(UnsupportedPlanError, match="does not say which they are"), guarded(model, document):
        pass
    with guarded(model, policy(-1e6, modalities=EVERY_MODALITY)) as wrapped:
        assert wrapped.guard.plan.steps[0].modality_tokens == "include"
