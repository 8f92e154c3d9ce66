"""Configurations of tiny multimodal models, one per family, and what their encoders take."""

from __future__ import annotations

from typing import Any

from steerguard.testing.text_configs import HEADS, TinyClass, gemma3_text, text_fields
from steerguard.testing.tokenizers import (
    AUDIO_TOKEN_ID,
    IMAGE_TOKEN_ID,
    VIDEO_TOKEN_ID,
    VISION_END_ID,
    VISION_START_ID,
)

IMAGE_SIZE, PATCH_SIZE = 28, 14
"""What the tiny image encoders take; every image becomes four tokens."""
MEL_BINS, MEL_FRAMES = 8, 16
"""What the tiny sound encoder takes; every sound becomes four tokens."""

_ENCODER_BLOCKS = 2


def multimodal_class(architecture: str, num_blocks: int, hidden_size: int) -> TinyClass:
    """Return the class and configuration of a tiny multimodal model.

    Raises:
        ValueError: there is none of that architecture.
    """
    text = text_fields(num_blocks, hidden_size)
    llama = {"model_type": "llama", **text}
    fields: dict[str, Any]
    vision: dict[str, Any]
    match architecture:
        case "llava":
            fields = {"vision_config": clip_vision(hidden_size), "text_config": llama}
            return _conditional("Llava", {**fields, "image_token_index": IMAGE_TOKEN_ID})
        case "idefics3" | "smolvlm":
            # Patches of half the size, because the connector joins four of them.
            vision = {**_encoder(hidden_size), "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE // 2}
            fields = {"vision_config": vision, "text_config": llama, "scale_factor": 2}
            family = "Idefics3" if architecture == "idefics3" else "SmolVLM"
            return _conditional(family, {**fields, "image_token_id": IMAGE_TOKEN_ID})
        case "qwen2_5_vl":
            return _conditional("Qwen2_5_VL", _qwen2_5_vl(text, hidden_size))
        case "gemma3_vision":
            vision = {"model_type": "siglip_vision_model", **_encoder(hidden_size), "vision_use_head": False}
            fields = {
                "vision_config": {**vision, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE},
                "text_config": gemma3_text(num_blocks, hidden_size),
                "mm_tokens_per_image": 4,
                "image_token_index": IMAGE_TOKEN_ID,
                "boi_token_index": VISION_START_ID,
                "eoi_token_index": VISION_END_ID,
            }
            return _conditional("Gemma3", fields)
        case "qwen2_audio":
            fields = {
                "audio_config": sound_encoder(hidden_size),
                "text_config": {"model_type": "qwen2", **text},
                "audio_token_index": AUDIO_TOKEN_ID,
            }
            return _conditional("Qwen2Audio", fields)
    raise ValueError(f"there is no tiny model of architecture {architecture!r}")


def clip_vision(hidden_size: int) -> dict[str, Any]:
    """Return the configuration of a tiny CLIP image encoder."""
    fields = {"model_type": "clip_vision_model", **_encoder(hidden_size)}
    return {**fields, "image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE}


def sound_encoder(hidden_size: int) -> dict[str, Any]:
    """Return the configuration of a tiny Qwen2-Audio sound encoder."""
    return {
        "model_type": "qwen2_audio_encoder",
        "num_mel_bins": MEL_BINS,
        "d_model": hidden_size,
        "encoder_layers": _ENCODER_BLOCKS,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 2 * hidden_size,
        # A convolution halves the frames.
        "max_source_positions": MEL_FRAMES // 2,
        "initializer_range": 0.2,
    }


def _conditional(family: str, fields: dict[str, Any]) -> TinyClass:
    fields = {"tie_word_embeddings": False, **fields}
    return TinyClass(config=f"{family}Config", model=f"{family}ForConditionalGeneration", fields=fields)


def _encoder(hidden_size: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": _ENCODER_BLOCKS,
        "num_attention_heads": HEADS,
    }


def _qwen2_5_vl(text: dict[str, Any], hidden_size: int) -> dict[str, Any]:
    pairs = hidden_size // HEADS // 2
    # Time, height and width share the rotary pairs of a head.
    sections = [pairs - 2 * (pairs // 4), pairs // 4, pairs // 4]
    rotary = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    return {
        "text_config": {**text, "rope_parameters": rotary},
        "vision_config": {
            "depth": _ENCODER_BLOCKS,
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_heads": HEADS,
            "patch_size": PATCH_SIZE,
            "window_size": 4 * PATCH_SIZE,
            "fullatt_block_indexes": [1],
            "out_hidden_size": hidden_size,
            "initializer_range": 0.2,
        },
        "image_token_id": IMAGE_TOKEN_ID,
        "video_token_id": VIDEO_TOKEN_ID,
        "vision_start_token_id": VISION_START_ID,
        "vision_end_token_id": VISION_END_ID,
    }
