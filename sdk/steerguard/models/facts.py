"""What a plan needs to know of a model: names, sizes and digests. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Facts of one loaded model and its tokenizer, read by `steerguard.models.inspect_model`."""

    architecture: str
    """Class name of the model, for example `LlamaForCausalLM`."""
    decoder: str
    """Class name of the text decoder, for example `LlamaModel`."""
    num_blocks: int
    hidden_size: int
    """Width of the residual stream."""
    vocab_size: int
    modalities: tuple[str, ...]
    """Subset of `text`, `image`, `audio`, `video`, sorted; always has `text`."""
    dtype: str
    """Floating point type of the weights without the `torch.` prefix, for example `bfloat16`."""
    tokenizer_sha256: str | None
    """Digest of the tokenizer's vocabulary, merges and special tokens; None without a tokenizer."""
    chat_template_sha256: str | None
    """Digest of the chat template text; None when there is no template."""
    name: str
    """`config._name_or_path` or an empty string: shown to people, never compared."""
    cache_width: int | None = None
    """Elements of keys and values that one token adds to the cache of one block, at most; None where the configuration
    does not say."""
