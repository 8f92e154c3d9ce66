"""Read the facts that a plan needs off a loaded model and its tokenizer or processor."""

from __future__ import annotations

import inspect as signatures
from typing import TYPE_CHECKING, Any

from steerguard.errors import UnsupportedArchitectureError
from steerguard.models.blocks import decoder_blocks, text_decoder
from steerguard.models.cache_width import cache_width
from steerguard.models.digests import chat_template_sha256, tokenizer_sha256
from steerguard.models.facts import ModelFacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CONFIG_OF_MODALITY = {
    "image": ("vision_config", "vision_tower_config", "image_config"),
    "audio": ("audio_config", "speech_config"),
    "video": ("video_config",),
}

_PLACEHOLDERS = tuple(f"{modality}_token_{end}" for modality in _CONFIG_OF_MODALITY for end in ("id", "index"))
"""Fields of a configuration that name the id of one piece of an image, sound or video."""

_MODALITY_INPUTS = ("pixel", "image", "video", "audio", "speech", "input_features")
"""How the names of a forward's inputs begin where they hold something else than text."""


def text_tokenizer(tokenizer_or_processor: Any) -> Any:
    """Return the tokenizer of a processor, or the tokenizer itself.

    Args:
        tokenizer_or_processor: a tokenizer, or a multimodal processor that holds one as `tokenizer`.

    Returns:
        The tokenizer that turns text into ids.
    """
    if hasattr(tokenizer_or_processor, "convert_tokens_to_ids"):
        return tokenizer_or_processor
    return getattr(tokenizer_or_processor, "tokenizer", tokenizer_or_processor)


def inspect_model(model: PreTrainedModel, tokenizer: Any | None = None) -> ModelFacts:
    """Return the facts of a loaded model.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        tokenizer: its tokenizer or processor; None leaves both digests empty.

    Returns:
        Names, sizes, modalities and digests.

    Raises:
        UnsupportedArchitectureError: the decoder blocks cannot be reached, or the config names no width.
    """
    blocks = decoder_blocks(model)
    config = model.config
    text_config = config.get_text_config(decoder=True)
    hidden_size = getattr(text_config, "hidden_size", None)
    if not isinstance(hidden_size, int):
        raise UnsupportedArchitectureError(
            "The configuration does not state the width of the residual stream",
            expected="an integer hidden_size",
            found=type(hidden_size).__name__,
            where=f"config.get_text_config() of {type(model).__name__}",
        )
    template_digest = None
    if tokenizer is not None:
        template_digest = chat_template_sha256(tokenizer) or chat_template_sha256(text_tokenizer(tokenizer))
    return ModelFacts(
        architecture=type(model).__name__,
        decoder=type(text_decoder(model)).__name__,
        num_blocks=len(blocks),
        hidden_size=hidden_size,
        vocab_size=int(text_config.vocab_size),
        modalities=_modalities(model),
        dtype=str(model.dtype).removeprefix("torch."),
        tokenizer_sha256=None if tokenizer is None else tokenizer_sha256(text_tokenizer(tokenizer)),
        chat_template_sha256=template_digest,
        name=str(getattr(config, "_name_or_path", "") or ""),
        cache_width=cache_width(text_config),
    )


def _modalities(model: PreTrainedModel) -> tuple[str, ...]:
    found = {"text"}
    declared = () if _takes_only_text(model) else getattr(model, "input_modalities", ())
    declared = (declared,) if isinstance(declared, str) else declared
    found.update(name for name in declared if name in _CONFIG_OF_MODALITY)
    # Omni models keep these one level down, in the configuration of the part that thinks.
    configs = [model.config, getattr(model.config, "thinker_config", None)]
    for modality, keys in _CONFIG_OF_MODALITY.items():
        if any(getattr(config, key, None) is not None for config in configs for key in keys):
            found.add(modality)
    return tuple(sorted(found))


def modality_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the token ids that stand for pieces of images, sounds and videos in `input_ids`, ascending.

    Args:
        model: a decoder-only model, or a multimodal model around one.
    """
    configs = [model.config, getattr(model.config, "thinker_config", None)]
    named = [getattr(config, name, None) for config in configs for name in _PLACEHOLDERS]
    return tuple(sorted({found for found in named if isinstance(found, int)}))


def _takes_only_text(model: PreTrainedModel) -> bool:
    """Return whether a class inherits the modalities of its family without taking them, as Gemma 3 for text does."""
    is_flat = model.config.get_text_config(decoder=True) is model.config
    names = signatures.signature(model.forward).parameters
    return is_flat and not any(name.startswith(_MODALITY_INPUTS) for name in names)
