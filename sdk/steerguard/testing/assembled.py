"""Multimodal models assembled around a loaded text model, to see what its artifacts do when images or sounds come in.

The projector between encoder and decoder is random: such a model answers texts exactly as the text model does, and
says nothing sensible about an image or a sound.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
)

from steerguard.models.blocks import decoder_blocks, text_decoder
from steerguard.testing.multimodal_configs import clip_vision, sound_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ENCODER_WIDTH = 32


def assemble_llava(
    text_model: PreTrainedModel, *, image_token_id: int, vision: PreTrainedModel | None = None, seed: int = 0
) -> LlavaForConditionalGeneration:
    """Build a LLaVA around the decoder of a loaded text model, for example a Llama or Qwen2 model.

    Args:
        text_model: a causal language model; its decoder and its head are used, not copied.
        image_token_id: id that stands for one image patch in `input_ids`; it must be one of the text model's ids, and
            one that texts never hold, so that tokenizer and embedding stay as they are.
        vision: an image encoder such as `CLIPVisionModel`; None is a tiny random one for images of 28 by 28 pixels.
        seed: of the random projector, and of the random encoder.

    Returns:
        A model in eval mode, with the type and on the device of the text model.

    Raises:
        UnsupportedArchitectureError: the decoder blocks of the text model cannot be reached.
        ValueError: the text model has no such token id.
    """
    config = LlavaConfig(
        vision_config=clip_vision(_ENCODER_WIDTH) if vision is None else vision.config.to_dict(),
        text_config=_small(text_model, image_token_id),
        image_token_index=image_token_id,
        tie_word_embeddings=bool(text_model.config.tie_word_embeddings),
    )
    model = _built(LlavaForConditionalGeneration, config, text_model, seed)
    if vision is not None:
        model.model.vision_tower = vision
    return _around(model, text_model)


def assemble_qwen2_audio(
    text_model: PreTrainedModel, *, audio_token_id: int, audio: PreTrainedModel | None = None, seed: int = 0
) -> Qwen2AudioForConditionalGeneration:
    """Build a Qwen2-Audio around the decoder of a loaded text model, for example a Llama or Qwen2 model.

    Args:
        text_model: a causal language model; its decoder and its head are used, not copied.
        audio_token_id: id that stands for one stretch of sound in `input_ids`; as `image_token_id` above.
        audio: a `Qwen2AudioEncoder`; None is a tiny random one for 8 mel bins and 16 frames.
        seed: of the random projector, and of the random encoder.

    Returns:
        A model in eval mode, with the type and on the device of the text model.

    Raises:
        UnsupportedArchitectureError: the decoder blocks of the text model cannot be reached.
        ValueError: the text model has no such token id.
    """
    config = Qwen2AudioConfig(
        audio_config=sound_encoder(_ENCODER_WIDTH) if audio is None else audio.config.to_dict(),
        text_config=_small(text_model, audio_token_id),
        audio_token_index=audio_token_id,
        tie_word_embeddings=bool(text_model.config.tie_word_embeddings),
    )
    model = _built(Qwen2AudioForConditionalGeneration, config, text_model, seed)
    if audio is not None:
        model.model.audio_tower = audio
    return _around(model, text_model)


def _small(text_model: PreTrainedModel, token_id: int) -> Any:
    """Return the text configuration with one block: what is built from it is thrown away."""
    config = copy.deepcopy(text_model.config.get_text_config(decoder=True))
    if not 0 <= token_id < config.vocab_size:
        raise ValueError(f"the text model has ids 0 to {config.vocab_size - 1}, not {token_id}")
    decoder_blocks(text_model)
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    return config


def _built(model_class: Any, config: Any, text_model: PreTrainedModel, seed: int) -> Any:
    config.dtype = text_model.dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).to(text_model.dtype)


def _around(model: Any, text_model: PreTrainedModel) -> Any:
    model.model.language_model = text_decoder(text_model)
    model.lm_head = text_model.get_output_embeddings()
    model.config.text_config = text_model.config.get_text_config(decoder=True)
    model.generation_config = copy.deepcopy(text_model.generation_config)
    return model.to(text_model.device).eval()
