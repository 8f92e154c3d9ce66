"""Tiny models, tokenizers, registries and sinks with the real interfaces, for tests of steerguard and of apps."""

from steerguard.audit.sinks import MemorySink
from steerguard.testing.artifacts import tiny_registry
from steerguard.testing.models import (
    BOS_ID,
    EOS_ID,
    IMAGE_TOKEN,
    IMAGE_TOKEN_ID,
    MAX_POSITIONS,
    PAD_ID,
    VOCAB_SIZE,
    Architecture,
    Template,
    tiny_model,
    tiny_tokenizer,
)

__all__ = [
    "BOS_ID",
    "EOS_ID",
    "IMAGE_TOKEN",
    "IMAGE_TOKEN_ID",
    "MAX_POSITIONS",
    "PAD_ID",
    "VOCAB_SIZE",
    "Architecture",
    "MemorySink",
    "Template",
    "tiny_model",
    "tiny_registry",
    "tiny_tokenizer",
]
