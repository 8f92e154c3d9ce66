"""Artifacts of a text model guide a multimodal model around the same decoder: text rows come out the same."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    conversation,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    split_of,
)
from tests.multimodal_prompts import modality_prompts

from steerguard.models.inspect import inspect_model
from steerguard.testing import AUDIO_TOKEN_ID, IMAGE_TOKEN_ID, assemble_llava, assemble_qwen2_audio, tiny_model

EVERY_MODALITY = "text, image, audio"
DECODERS = ("llama", "qwen2")


def _assembled(kind, text_model):
    if kind == "llava":
        return assemble_llava(text_model, image_token_id=IMAGE_TOKEN_ID)
    return assemble_qwen2_audio(text_model, audio_token_id=AUDIO_TOKEN_ID)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["llava", "qwen2_audio"])
def test_text_rows_are_guided_by_the_text_models_artifacts_to_the_same_tokens_and_decisions(kind, decoder):
    text_model = shared_model(decoder)
    registry, batch = registry_for(text_model), prompts(8)
    document = policy(split_of(text_model), modalities=EVERY_MODALITY)
    found = []
    for model in (text_model, _assembled(kind, text_model)):
        with guarded(model, document, registry=registry) as wrapped, wrapped.guard.collect() as reports:
            tokens, logits = run(wrapped, batch)
            found.append((tokens, logits, [(r.intended, r.readings, r.doses) for r in reports]))
            assert wrapped.guard.plan.model.decoder == type(text_model.model).__name__
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))
    assert found[0][2] == found[1][2]
    assert {intended for intended, _, _ in found[0][2]} == {"allow", "guide"}


@pytest.mark.parametrize("kind", ["llava", "qwen2_audio"])
def test_rows_with_images_or_sounds_are_gated_beside_text_rows(kind):
    text_model = shared_model("llama")
    model = _assembled(kind, text_model)
    batch = modality_prompts(kind, 8)
    document, registry = policy(-1e6, modalities=EVERY_MODALITY), registry_for(text_model)
    with guarded(model, document, registry=registry) as wrapped, wrapped.guard.collect() as reports:
        guided = run(wrapped, batch)
    plain = run(model, batch)
    assert all(report.doses for report in reports)
    assert all(not torch.equal(one, other) for one, other in zip(plain[1][0], guided[1][0], strict=True))


def test_the_decoder_and_the_head_are_shared_and_the_random_state_is_left_alone():
    text_model = tiny_model("llama")
    before = torch.get_rng_state()
    model = assemble_llava(text_model, image_token_id=IMAGE_TOKEN_ID)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.get_decoder() is text_model.model
    assert model.lm_head is text_model.lm_head
    assert inspect_model(model).modalities == ("image", "text")
    again = assemble_llava(text_model, image_token_id=IMAGE_TOKEN_ID)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_a_placeholder_that_the_text_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="ids 0 to 319"):
        assemble_llava(tiny_model("llama"), image_token_id=320)


def test_an_encoder_that_was_loaded_is_used():
    vision = tiny_model("llava").model.vision_tower
    model = assemble_llava(tiny_model("qwen2"), image_token_id=IMAGE_TOKEN_ID, vision=vision)
    assert model.model.vision_tower is vision
    model.generate(**modality_prompts("llava", 2), max_new_tokens=2, do_sample=False)
    with guarded(model, policy(0.0, modalities=EVERY_MODALITY)) as wrapped:
        assert wrapped.guard.check(conversation("hello")).readings
