"""Which ways of generating the guard can follow. What is not on these lists raises by name; nothing falls through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

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
    "use_cache", "return_dict_in_generate", "disable_compile", "length_penalty", "early_stopping",
    "transformers_version",
})  # fmt: skip
"""Generation settings that greedy search and sampling follow with guidance in place."""

GUIDED_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "logits_to_keep"})
"""Model inputs that `generate` may carry."""

GUIDED_ARGUMENTS = frozenset({"logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "tokenizer"})
"""Arguments of `generate` beside inputs and settings."""

HARMLESS_ARGUMENTS = {"synced_gpus": (None, False), "trust_remote_code": (None, False), "use_model_defaults": (None,)}
"""Arguments that change nothing at these values."""


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that would leave the guard's control.

    Args:
        arguments: named arguments of the call that are neither `inputs` nor generation settings, as given.

    Raises:
        UnsupportedGenerationError: names the argument.
    """
    for name, value in arguments.items():
        if value is None or name in GUIDED_INPUTS or name in GUIDED_ARGUMENTS:
            continue
        if name in HARMLESS_ARGUMENTS and value in HARMLESS_ARGUMENTS[name]:
            continue
        raise unsupported(f"`{name}`")


def check_settings(effective: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse generation settings that ask for another way of generating than greedy search or sampling.

    Args:
        effective: the merged generation settings of the call.
        defaults: the library's own values; a setting at its default is harmless.

    Raises:
        UnsupportedGenerationError: names the setting.
    """
    for name, value in effective.items():
        if name.startswith("_") or name in GUIDED_SETTINGS or value is None or value is False:
            continue
        if value != defaults.get(name):
            raise unsupported(f"`{name}={value!r}`" if isinstance(value, (int, float, bool)) else f"`{name}`")


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
        expected="greedy search or sampling over input_ids",
        found=what,
        where="generate",
        next_step="Leave it out, or generate inside `with model.guard.unguided(reason):`, which records the bypass.",
    )
