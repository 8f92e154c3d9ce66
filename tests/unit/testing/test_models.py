from __future__ import annotations

from typing import get_args

import pytest
import torch

from steerguard.testing import (
    BOS_ID,
    EOS_ID,
    IMAGE_TOKEN,
    IMAGE_TOKEN_ID,
    PAD_ID,
    VOCAB_SIZE,
    Architecture,
    Template,
    tiny_model,
    tiny_tokenizer,
)

ARCHITECTURES = get_args(Architecture)
TEMPLATES = get_args(Template)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_tiny_tokenizer_has_the_declared_ids(template):
    tokenizer = tiny_tokenizer(template)
    assert len(tokenizer) == VOCAB_SIZE
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (PAD_ID, BOS_ID, EOS_ID)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == IMAGE_TOKEN_ID


@pytest.mark.parametrize("text", ["plain words", "two\n\nlines ", "naïve café ☕ 漢字", "<|pad|> in text"])
def test_any_text_survives_a_round_trip(chatml_tokenizer, text):
    ids = chatml_tokenizer(text, add_special_tokens=False)["input_ids"]
    assert chatml_tokenizer.decode(ids) == text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tiny_model_generates_tokens_that_its_tokenizer_knows(architecture, chatml_tokenizer):
    model = tiny_model(architecture)
    assert not model.training
    batch = chatml_tokenizer(["hi", "a longer prompt"], return_tensors="pt", padding=True)
    output = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert output.shape[0] == 2
    assert int(output.max()) < VOCAB_SIZE
    assert model.generation_config.eos_token_id == EOS_ID


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(architecture):
    first, second, other = (tiny_model(architecture, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_a_model_does_not_move_the_global_random_state():
    before = torch.get_rng_state()
    tiny_model("llama", seed=11)
    assert torch.equal(torch.get_rng_state(), before)


def test_sizes_and_type_are_as_asked():
    model = tiny_model("qwen2", num_blocks=7, hidden_size=64, dtype=torch.bfloat16)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (7, 64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_tiny_llava_takes_pixels():
    model = tiny_model("llava")
    patches = 4
    ids = torch.tensor([[BOS_ID, *[IMAGE_TOKEN_ID] * patches, 40, 41]])
    pixels = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first = model(input_ids=ids, pixel_values=pixels).logits
        second = model(input_ids=ids, pixel_values=1 - pixels).logits
    assert first.shape == (1, ids.shape[1], VOCAB_SIZE)
    assert not torch.equal(first, second)
