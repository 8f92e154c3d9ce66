"""The cache that one token adds, told from the configuration, is what the model's cache then holds."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import ARCHITECTURES, shared_model
from transformers import DeepseekV3Config, DynamicCache, MambaConfig

from steerguard.models.cache_width import cache_width
from steerguard.models.inspect import inspect_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_token_adds_what_the_facts_say_to_every_block(architecture):
    model = shared_model(architecture)
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    with torch.no_grad():
        model(input_ids=torch.tensor([[5, 6, 7]]), past_key_values=cache, use_cache=True)
    held = {layer.keys.numel() + layer.values.numel() for layer in cache.layers}
    assert held == {3 * inspect_model(model).cache_width}


def test_latent_attention_caches_every_head_with_values_of_their_own_width():
    config = DeepseekV3Config(num_attention_heads=4, qk_nope_head_dim=8, qk_rope_head_dim=2, v_head_dim=6)
    assert cache_width(config) == 4 * (8 + 2) + 4 * 6


def test_a_model_without_attention_says_nothing():
    assert cache_width(MambaConfig()) is None
