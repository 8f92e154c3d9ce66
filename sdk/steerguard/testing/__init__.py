"""Tiny models, tokenizers, registries, sinks, proposers and a Hub on loopback with the real interfaces, for tests here and in apps."""

from steerguard.audit.sinks import MemorySink
from steerguard.testing.artifacts import tiny_registry
from steerguard.testing.assembled import assemble_llava, assemble_qwen2_audio
from steerguard.testing.conformance import assert_conforms
from steerguard.testing.exhaustive import ExhaustiveProposer, SampledProposer, TokenCost, TokenTable
from steerguard.testing.loopback_hub import LoopbackHub
from steerguard.testing.models import Architecture, tiny_model
from steerguard.testing.tokenizers import (
    AUDIO_TOKEN,
    AUDIO_TOKEN_ID,
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

__all__ = [
    "AUDIO_TOKEN",
    "AUDIO_TOKEN_ID",
    "BOS_ID",
    "EOS_ID",
    "IMAGE_TOKEN",
    "IMAGE_TOKEN_ID",
    "MAX_POSITIONS",
    "PAD_ID",
    "VOCAB_SIZE",
    "Architecture",
    "ExhaustiveProposer",
    "LoopbackHub",
    "MemorySink",
    "SampledProposer",
    "Template",
    "TokenCost",
    "TokenTable",
    "assemble_llava",
    "assemble_qwen2_audio",
    "assert_conforms",
    "tiny_model",
    "tiny_registry",
    "tiny_tokenizer",
]
