"""Never bypassed: a way of generating that the guard cannot follow raises and names what was asked for."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import (
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    state_of,
    tokenizer,
)
from transformers import GenerationConfig
from transformers.generation import GenerationMixin

import steerguard
from steerguard.engine.arguments import GUIDED_SETTINGS, check_cache
from steerguard.errors import UnguidedForwardError, UnsupportedGenerationError

BATCH = prompts(2)

ASKED = {
    "num_beam_groups": {"num_beam_groups": 2, "num_beams": 4},
    "low_memory": {"low_memory": True, "num_beams": 2},
    "streamer": {"streamer": object()},
    "assistant_model": {"assistant_model": "assistant"},
    "prompt_lookup_num_tokens": {"prompt_lookup_num_tokens": 3},
    "assistant_early_exit": {"assistant_early_exit": 1},
    "custom_generate": {"custom_generate": "some/repository"},
    "custom_generate ": {"custom_generate": lambda *_, **__: torch.zeros(1)},
    "cache_implementation": {"cache_implementation": "offloaded_static"},
    "cache_implementation ": {"cache_implementation": "quantized"},
    "cache_implementation  ": {"cache_implementation": "paged"},
    "cache_implementation   ": {"cache_implementation": "offloaded"},
    "prefill_chunk_size": {"prefill_chunk_size": 0},
    "inputs_embeds": {"inputs_embeds": torch.zeros(2, 5, 32)},
    "guidance_scale": {"guidance_scale": 2.0},
    "negative_prompt_ids": {"negative_prompt_ids": BATCH["input_ids"]},
    "penalty_alpha": {"penalty_alpha": 0.6, "top_k": 4},
    "dola_layers": {"dola_layers": "low"},
    "constraints": {"constraints": ["x"]},
    "token_healing": {"token_healing": True, "tokenizer": tokenizer()},
    "audio_values": {"audio_values": torch.zeros(1)},
    "synced_gpus": {"synced_gpus": True},
    "trust_remote_code": {"trust_remote_code": True},
    "a_setting_of_the_future": {"a_setting_of_the_future": 1},
}


@pytest.mark.parametrize("name", ASKED)
def test_an_unsupported_way_of_generating_raises_by_name_and_leaves_no_trace(name):
    with guarded(shared_model(), policy(1e6)) as wrapped:
        before = state_of(wrapped)
        with wrapped.guard.collect() as reports, pytest.raises(UnsupportedGenerationError) as caught:
            wrapped.generate(**BATCH, max_new_tokens=3, **ASKED[name])
        assert name.strip() in str(caught.value.found)
        assert reports == []
        assert state_of(wrapped) == before


@pytest.mark.parametrize(
    "settings", [{"dola_layers": "low"}, {"cache_implementation": "offloaded"}, {"guidance_scale": 1.5}]
)
def test_a_generation_config_does_not_smuggle_a_setting_past_the_guard(settings):
    model = fresh_model()
    with guarded(model, policy(1e6), registry=registry_for(shared_model())) as wrapped:
        config = GenerationConfig(max_new_tokens=3, pad_token_id=0, eos_token_id=2, **settings)
        with pytest.raises(UnsupportedGenerationError, match=next(iter(settings))):
            wrapped.generate(**BATCH, generation_config=config)
        for name, value in settings.items():
            setattr(wrapped.generation_config, name, value)
        with pytest.raises(UnsupportedGenerationError, match=next(iter(settings))):
            wrapped.generate(**BATCH, max_new_tokens=3)


def test_positional_arguments_are_checked_like_named_ones():
    with guarded(shared_model(), policy(1e6)) as wrapped:
        config = GenerationConfig(max_new_tokens=2, pad_token_id=0, eos_token_id=2)
        plain = wrapped.generate(BATCH["input_ids"], config, attention_mask=BATCH["attention_mask"])
        assert plain.shape[0] == 2
        with pytest.raises(UnsupportedGenerationError, match="guidance_scale"):
            wrapped.generate(BATCH["input_ids"], GenerationConfig(guidance_scale=2.0, max_new_tokens=2))
        with pytest.raises(UnsupportedGenerationError, match="streamer"):
            wrapped.generate(BATCH["input_ids"], None, None, None, None, None, None, "a streamer", max_new_tokens=2)


def test_every_other_setting_at_its_default_or_guided_is_accepted():
    guided = {
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 2,
        "bad_words_ids": [[5]],
        "suppress_tokens": [6],
        "max_time": 60.0,
        "typical_p": 0.9,
        "num_beams": 1,
        "num_return_sequences": 1,
        "use_cache": True,
        "renormalize_logits": True,
    }
    assert set(guided) <= GUIDED_SETTINGS
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        tokens = wrapped.generate(**BATCH, max_new_tokens=4, do_sample=True, **guided)
    assert tokens.shape[0] == 2


HARMLESS = (
    {"guidance_scale": 1.0},
    {"penalty_alpha": 0.0},
    {"num_assistant_tokens": 5},
    {"max_matching_ngram_size": 2},
    {"assistant_confidence_threshold": 0.1},
    {"output_router_logits": False},
)


@pytest.mark.parametrize("settings", HARMLESS, ids=lambda settings: next(iter(settings)))
def test_values_that_cannot_change_the_text_are_accepted_and_change_nothing(settings):
    model = fresh_model("mixtral") if "output_router_logits" in settings else shared_model()
    plain, _ = run(model, BATCH, **settings)
    with guarded(model, policy(1e6)) as wrapped:
        found, _ = run(wrapped, BATCH, **settings)
    assert found.tolist() == plain.tolist()


def test_what_the_library_does_not_know_in_a_generation_config_is_accepted():
    model = fresh_model()
    plain, _ = run(model, BATCH)
    with guarded(model, policy(1e6), registry=registry_for(shared_model())) as wrapped:
        wrapped.generation_config.chat_format = "chatml"
        wrapped.generation_config.user_token_id = 5
        found, _ = run(wrapped, BATCH)
    assert found.tolist() == plain.tolist()


@pytest.mark.parametrize("name", ["guidance_scale", "prompt_lookup_num_tokens", "num_beam_groups", "low_memory"])
def test_a_harmless_setting_does_not_let_others_through(name):
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnsupportedGenerationError, match=name):
        wrapped.generate(**BATCH, max_new_tokens=3, **{"num_assistant_tokens": 5, **ASKED[name]})


@pytest.mark.parametrize("method", ["generate_batch", "init_continuous_batching", "_assisted_decoding"])
def test_other_doors_to_generation_raise_by_name(method):
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnsupportedGenerationError, match=method):
        getattr(wrapped, method)([[1, 2, 3]])


def test_the_librarys_own_generate_on_a_wrapped_model_raises():
    with (
        guarded(shared_model(), policy(1e6)) as wrapped,
        pytest.raises((UnguidedForwardError, UnsupportedGenerationError)),
    ):
        GenerationMixin.generate(wrapped, **BATCH, max_new_tokens=2)


@pytest.mark.parametrize("how", ["compiled after wrap", "compiled before wrap"])
def test_a_compiled_model_raises(how):
    model = fresh_model()
    registry = registry_for(shared_model())
    if how == "compiled before wrap":
        model.compile()
        with pytest.raises(steerguard.SteerguardError, match="compiled"):
            steerguard.wrap(model, policy(), tokenizer=tokenizer(), registry=registry)
        return
    with guarded(model, policy(1e6), registry=registry) as wrapped:
        wrapped.compile()
        with pytest.raises(UnsupportedGenerationError, match="compile"):
            run(wrapped, BATCH)


def test_a_static_cache_cannot_come_in_through_the_model_inputs():
    with (
        guarded(shared_model(), policy(1e6)) as wrapped,
        pytest.raises(UnsupportedGenerationError, match="past_key_values"),
    ):
        wrapped.generate(**BATCH, past_key_values=(), max_new_tokens=2)


def test_a_cache_of_fixed_size_is_refused_where_transformers_would_compile_the_forward_pass():
    check_cache("static", compiles=False)
    with pytest.raises(UnsupportedGenerationError, match="static"):
        check_cache("static", compiles=True)


def test_nothing_of_the_prompt_is_in_the_message():
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnsupportedGenerationError) as caught:
        wrapped.generate(**BATCH, max_new_tokens=2, stray="a secret text")
    assert "a secret text" not in str(caught.value)
