"""Which ways of generating the guard can follow. What is not on these lists raises by name; nothing falls through."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache, GenerationConfig

from steerguard.engine.cache_kinds import unknown_kind
from steerguard.errors import UnsupportedGenerationError

if TYPE_CHECKING:
    from collections.abc import Mapping

GUIDED_SETTINGS = frozenset({
    "max_length", "max_new_tokens", "min_length", "min_new_tokens", "max_time", "stop_strings",
    "do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff",
    "repetition_penalty", "no_repeat_ngram_size", "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id",
    "exponential_decay_length_penalty", "renormalize_logits", "watermarking_config",
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
    "use_cache", "return_dict_in_generate", "disable_compile", "transformers_version", "cache_implementation",
    "prefill_chunk_size",
    "num_return_sequences", "num_beams", "length_penalty", "early_stopping",
    "output_scores", "output_logits", "output_attentions", "output_hidden_states",
})  # fmt: skip
"""Generation settings that greedy search, sampling and beam search follow with guidance in place."""

GUIDED_CACHES = (None, "dynamic", "static")
"""Values of `cache_implementation` with which every guarantee was tested."""

GUIDED_INPUTS = frozenset({
    "input_ids", "attention_mask", "token_type_ids", "logits_to_keep",
    "pixel_values", "pixel_attention_mask", "image_sizes", "image_grid_thw", "mm_token_type_ids",
    "pixel_values_videos", "video_grid_thw", "second_per_grid_ts",
    "input_features", "feature_attention_mask",
})  # fmt: skip
"""Model inputs that `generate` may carry: what tokenizers and the processors of the tested classes return."""

GUIDED_ARGUMENTS = frozenset({
    "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer", "streamer",
    "output_attentions", "output_hidden_states",
})  # fmt: skip
"""Arguments of `generate` beside inputs and settings, and settings that it hands on to the model."""

CACHE = "past_key_values"
"""What an app passes to go on with the cache of an earlier turn; `check_passed_cache` has the rules."""

HARMLESS_ARGUMENTS = {
    "synced_gpus": (None, False),
    "trust_remote_code": (None, False),
    "use_model_defaults": (None,),
    "output_router_logits": (False,),
}
"""Arguments that change nothing at these values."""

HARMLESS_SETTINGS = {"guidance_scale": 1, "penalty_alpha": 0}
"""Settings that change nothing at this value, which is not their default."""

ASSISTED_SETTINGS = frozenset({
    "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "max_matching_ngram_size",
})  # fmt: skip
"""How assisted generation goes, where something else asks for it; what asks for it is refused."""

KNOWN_SETTINGS = frozenset((*vars(GenerationConfig()), *dir(GenerationConfig)))
"""Every setting of the installed library, and every method that one would hide; its loops read nothing else, so what an
app adds changes nothing."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that would leave the guard's control.

    Args:
        arguments: named arguments of the call that are neither `inputs` nor generation settings, as given.

    Raises:
        UnsupportedGenerationError: names the argument.
    """
    for name, value in arguments.items():
        if value is None or name in GUIDED_INPUTS or name in GUIDED_ARGUMENTS or name == CACHE:
            continue
        if name in HARMLESS_ARGUMENTS and value in HARMLESS_ARGUMENTS[name]:
            continue
        raise unsupported(f"`{name}`")


def check_settings(effective: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse generation settings that ask for another way of generating than greedy search, sampling or beam search.

    Args:
        effective: the merged generation settings of the call.
        defaults: the library's own values; a setting at its default is harmless.

    Raises:
        UnsupportedGenerationError: names the setting.
    """
    for name, value in effective.items():
        if name.startswith("_") or name in GUIDED_SETTINGS or value is None or value is False:
            continue
        if name in ASSISTED_SETTINGS or _is_harmless(name, value):
            continue
        if value != defaults.get(name):
            raise unsupported(f"`{name}={value!r}`" if isinstance(value, (int, float, bool)) else f"`{name}`")


def _is_harmless(name: str, value: Any) -> bool:
    return name in HARMLESS_SETTINGS and isinstance(value, (int, float)) and value == HARMLESS_SETTINGS[name]


def check_cache(implementation: str | None, *, compiles: bool) -> None:
    """Refuse kinds of cache that were not tested, and those with which the library would compile the forward pass.

    Args:
        implementation: the effective `cache_implementation`.
        compiles: whether the library compiles the forward pass on this device when it can.

    Raises:
        UnsupportedGenerationError: names the setting.
    """
    if implementation not in GUIDED_CACHES:
        raise unsupported(f"`cache_implementation={implementation!r}`")
    if implementation == "static" and compiles:
        raise unsupported("`cache_implementation='static'`, with which transformers compiles the forward pass here,")


def check_passed_cache(cache: Any, model: Any, *, used: bool, compiles: bool) -> None:
    """Refuse a cache of the app that cannot be followed from turn to turn.

    Args:
        cache: what the app passes as `past_key_values`; None for nothing.
        model: the wrapped model.
        used: the effective `use_cache`.
        compiles: whether the library compiles the forward pass by itself for a cache of fixed size.

    Raises:
        UnsupportedGenerationError: names the class of the cache or of a layer, or the setting.
    """
    if cache is None:
        return
    if CACHE not in inspect.signature(model.forward).parameters:
        raise unsupported("`past_key_values` of a model whose forward pass takes none")
    if not used:
        raise unsupported("`past_key_values` and `use_cache=False`")
    kind = unknown_kind(cache)
    if kind is not None:
        raise unsupported(f"`past_key_values` {kind}")
    if compiles and cache.is_compileable and type(cache) is not DynamicCache:
        raise unsupported("`past_key_values` of fixed size, with which transformers compiles the forward pass here,")


def compiles_itself(model: Any, effective: Any) -> bool:
    """Return whether transformers would compile the forward pass by itself for a cache of fixed size."""
    return model.device.type != "cpu" and not effective.disable_compile


def check_shapes(input_ids: Any, attention_mask: Any) -> None:
    """Refuse inputs whose rows and columns the guard could not place.

    Raises:
        UnsupportedGenerationError: `input_ids` is not a filled `[rows, columns]` tensor of integers, or the mask has
            another shape or other values than 0 and 1.
    """
    if input_ids is None:
        return
    if not isinstance(input_ids, torch.Tensor) or input_ids.dim() != 2 or input_ids.numel() == 0:
        raise unsupported(f"`input_ids` of shape {tuple(getattr(input_ids, 'shape', ()))}")
    if input_ids.is_floating_point():
        raise unsupported(f"`input_ids` of type {input_ids.dtype}")
    if attention_mask is None:
        return
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape:
        raise unsupported(f"an `attention_mask` of shape {tuple(getattr(attention_mask, 'shape', ()))}")
    if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
        raise unsupported("an `attention_mask` with values other than 0 and 1")


def unsupported(what: str) -> UnsupportedGenerationError:
    """Return the error for a way of generating that this version does not guide."""
    return UnsupportedGenerationError(
        f"This version does not generate with {what} under guidance.",
        expected="greedy search, sampling or beam search over input_ids",
        found=what,
        where="generate",
        next_step="Leave it out, or generate inside `with model.guard.unguided(reason):`, which records the bypass.",
    )
