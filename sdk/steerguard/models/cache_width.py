"""How much one token adds to the cache of one decoder block, read off a configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def cache_width(text_config: PretrainedConfig) -> int | None:
    """Return how many elements of keys and values together one token adds to the cache of one attention block.

    It is the widest that a block of the model can be: one with a sliding window, or without attention, holds less for a
    long text.

    Args:
        text_config: of the text decoder.

    Returns:
        At least 1; None where the configuration states no heads, as that of a purely recurrent model.
    """
    heads = getattr(text_config, "num_attention_heads", None)
    if not isinstance(heads, int):
        return None
    names = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    latent = [size for name in names if isinstance(size := getattr(text_config, name, None), int)]
    if len(latent) == len(names):
        # Multi-head latent attention: what is cached has every head, and values of their own width.
        return heads * sum(latent)
    kept = getattr(text_config, "num_key_value_heads", None)
    stated = getattr(text_config, "head_dim", None)
    size = stated if isinstance(stated, int) else int(text_config.hidden_size) // heads
    return 2 * (kept if isinstance(kept, int) else heads) * size
