"""Digests of a tokenizer and of its chat template: what an artifact's manifest binds to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from steerguard.canonical import canonical_bytes, sha256_hex

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FIRST_STABLE_KEY = '"added_tokens":['


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the digest of everything that decides which ids a text becomes.

    For fast tokenizers this is the serialised backend from the added tokens on (added tokens, normaliser,
    pre-tokeniser, post-processor, model), for slow ones the vocabulary and the special tokens.
    Padding and truncation, which callers set at run time, do not change it.

    Args:
        tokenizer: a fast or slow tokenizer.

    Returns:
        64 lower-case hexadecimal digits.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return sha256_hex(canonical_bytes(_slow_content(tokenizer)))
    serialised: str = backend.to_str()
    # The keys before this one are version, truncation and padding. Parsing 1.5 MB of JSON would double the time,
    # and this text cannot occur inside an earlier JSON string, where its quotes would be escaped.
    start = serialised.find(_FIRST_STABLE_KEY)
    if start < 0:
        content = json.loads(serialised)
        content = {key: content[key] for key in content if key not in {"version", "truncation", "padding"}}
        return sha256_hex(json.dumps(content, sort_keys=True, ensure_ascii=True).encode("utf-8"))
    return sha256_hex(serialised[start:].encode("utf-8"))


def chat_template_sha256(tokenizer: Any) -> str | None:
    """Return the digest of the chat template text, or None when there is no template.

    Args:
        tokenizer: a tokenizer or a processor; a template may be one text or several by name.

    Returns:
        64 lower-case hexadecimal digits, or None.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    if isinstance(template, str):
        return sha256_hex(template.encode("utf-8"))
    return sha256_hex(canonical_bytes(dict(template)))


def _slow_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "class": type(tokenizer).__name__,
        "vocab": dict(tokenizer.get_vocab()),
        "special_ids": sorted(tokenizer.all_special_ids),
    }
