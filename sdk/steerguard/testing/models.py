"""Tiny models with the real interfaces: built offline, random, the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
import transformers

from steerguard.testing.multimodal_configs import multimodal_class
from steerguard.testing.text_configs import TextArchitecture, text_class
from steerguard.testing.tokenizers import (
    BOS_ID,
    EOS_ID,
    IMAGE_TOKEN,
    IMAGE_TOKEN_ID,
    MAX_POSITIONS,
    PAD_ID,
    VOCAB_SIZE,
    Template,
    tiny_tokenizer,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Architecture = Literal[
    TextArchitecture,
    "llava",
    "idefics3",
    "smolvlm",
    "qwen2_5_vl",
    "gemma3_vision",
    "qwen2_audio",
]

__all__ = [
    "BOS_ID",
    "EOS_ID",
    "IMAGE_TOKEN",
    "IMAGE_TOKEN_ID",
    "MAX_POSITIONS",
    "PAD_ID",
    "VOCAB_SIZE",
    "Architecture",
    "Template",
    "tiny_model",
    "tiny_tokenizer",
]


def tiny_model(
    architecture: Architecture = "llama",
    *,
    num_blocks: int = 4,
    hidden_size: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Build a random model of a real architecture that fits `tiny_tokenizer`.

    Where a family alternates kinds of blocks, even blocks are sliding-window, linear-attention or convolution blocks
    and odd ones have full attention; windows are `SLIDING_WINDOW` tokens wide, so short prompts already exceed them.

    Args:
        architecture: which family; `llava`, `idefics3`, `smolvlm`, `qwen2_5_vl` and `gemma3_vision` also take images,
            `qwen2_audio` also takes sounds.
        num_blocks: decoder blocks, at least 1.
        hidden_size: width of the residual stream, a multiple of 16.
        seed: same seed, same weights; the global random state is neither used nor changed.
        dtype: type of the weights.

    Returns:
        A model in eval mode on the CPU.
    """
    find = text_class if architecture in get_args(TextArchitecture) else multimodal_class
    found = find(architecture, num_blocks, hidden_size)
    config = getattr(transformers, found.config)(**found.fields)
    config.dtype = dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = getattr(transformers, found.model)(config)
        if architecture == "gemma3_vision":
            # The library starts this projection at zero, which would make every image look the same.
            torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    generation = model.generation_config
    if generation is not None:
        generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD_ID, BOS_ID, EOS_ID
    return cast("PreTrainedModel", model.to(dtype).eval())
