"""Batches with images or sounds for the tiny multimodal models, as their processors would write them."""

from __future__ import annotations

import torch
from tests.guarded_models import CONTENTS, conversation, tokenizer

from steerguard.models.chat import render
from steerguard.testing import AUDIO_TOKEN, AUDIO_TOKEN_ID, IMAGE_TOKEN, IMAGE_TOKEN_ID
from steerguard.testing.multimodal_configs import IMAGE_SIZE, MEL_BINS, MEL_FRAMES, PATCH_SIZE
from steerguard.testing.tokenizers import VIDEO_TOKEN_ID

TOKENS = 4
"""Tokens that one tiny image or sound takes."""
IMAGE_CLASSES = ("llava", "idefics3", "smolvlm", "qwen2_5_vl", "gemma3_vision")
MULTIMODAL_CLASSES = (*IMAGE_CLASSES, "qwen2_audio")
TOWERS = {
    "llava": "model.vision_tower",
    "idefics3": "model.vision_model",
    "smolvlm": "model.vision_model",
    "qwen2_5_vl": "model.visual",
    "gemma3_vision": "model.vision_tower",
    "qwen2_audio": "model.audio_tower",
}
"""Where each class keeps its encoder."""
_MARKS = {"qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"), "gemma3_vision": ("<|vision_start|>", "<|vision_end|>")}


def placeholder(architecture):
    """The text of one image or sound."""
    before, after = _MARKS.get(architecture, ("", ""))
    return before + (AUDIO_TOKEN if architecture == "qwen2_audio" else IMAGE_TOKEN) * TOKENS + after


def modality_prompts(architecture, rows=8, *, with_modality=None, side="left", seed=0, dtype=torch.float32):
    """A batch in which the given rows hold an image or a sound: by default every second one."""
    chosen = range(0, rows, 2) if with_modality is None else with_modality
    texts = [
        (placeholder(architecture) if row in chosen else "") + CONTENTS[row % len(CONTENTS)] for row in range(rows)
    ]
    batch = render(tokenizer(), [conversation(text) for text in texts], padding_side=side)
    return {**batch, **_tensors(architecture, batch, rows, list(chosen), seed, dtype)}


def video_prompts(rows=4, *, seed=0):
    """A batch for `qwen2_5_vl` in which every second row holds a video of two pairs of frames."""
    marks = "<|vision_start|>" + "<video>" * 2 * TOKENS + "<|vision_end|>"
    texts = [(marks if row % 2 == 0 else "") + CONTENTS[row] for row in range(rows)]
    batch = render(tokenizer(), [conversation(text) for text in texts])
    count = len(range(0, rows, 2))
    pixels = torch.randn(count * 32, 3 * 2 * PATCH_SIZE**2, generator=torch.Generator().manual_seed(seed))
    return {
        **batch,
        "mm_token_type_ids": (batch["input_ids"] == VIDEO_TOKEN_ID).long() * 2,
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([[2, 4, 4]]).repeat(count, 1),
        "second_per_grid_ts": torch.ones(count),
    }


def _tensors(architecture, batch, rows, chosen, seed, dtype):
    ids = batch["input_ids"]
    types = (ids == IMAGE_TOKEN_ID).long()
    extra = {"gemma3_vision": {"token_type_ids": types}, "qwen2_5_vl": {"mm_token_type_ids": types}}.get(
        architecture, {}
    )
    if not chosen:
        return extra
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    count = len(chosen)
    match architecture:
        case "llava" | "gemma3_vision":
            return {**extra, "pixel_values": noise(count, 3, IMAGE_SIZE, IMAGE_SIZE)}
        case "idefics3" | "smolvlm":
            pixels = torch.zeros(rows, 1, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=dtype)
            pixels[chosen] = noise(count, 1, 3, IMAGE_SIZE, IMAGE_SIZE)
            mask = torch.ones(rows, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.int64)
            return {"pixel_values": pixels, "pixel_attention_mask": mask}
        case "qwen2_5_vl":
            grid = torch.tensor([[1, 4, 4]]).repeat(count, 1)
            return {**extra, "pixel_values": noise(count * 16, 3 * 2 * PATCH_SIZE**2), "image_grid_thw": grid}
    assert (ids == AUDIO_TOKEN_ID).sum() == TOKENS * count
    mask = torch.ones(count, MEL_FRAMES, dtype=torch.int64)
    return {"input_features": noise(count, MEL_BINS, MEL_FRAMES), "feature_attention_mask": mask}
