"""Configurations of tiny text models, one per family. Classes are named, and loaded only when they are built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from steerguard.testing.tokenizers import BOS_ID, EOS_ID, MAX_POSITIONS, PAD_ID, VOCAB_SIZE

TextArchitecture = Literal[
    "llama",
    "qwen2",
    "gemma",
    "gpt2",
    "mistral",
    "phi",
    "mixtral",
    "qwen3",
    "gemma2",
    "gemma3",
    "gpt_neox",
    "olmoe",
    "qwen3_next",
    "lfm2",
    "falcon_mamba",
]

HEADS = 4
SLIDING_WINDOW = 8
"""Tokens that a sliding-window block sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyClass:
    """A model class of transformers and the fields of its configuration."""

    config: str
    model: str
    fields: dict[str, Any]


def text_class(architecture: str, num_blocks: int, hidden_size: int) -> TinyClass:
    """Return the class and configuration of a tiny text model.

    Raises:
        ValueError: there is none of that architecture.
    """
    text = text_fields(num_blocks, hidden_size)
    head_dim = {"head_dim": hidden_size // HEADS}
    sizes = {"hidden_size": hidden_size, "num_hidden_layers": num_blocks}
    convolutions = {"layer_types": _alternating("conv", num_blocks), "block_auto_adjust_ff_dim": False}
    classes: dict[str, TinyClass] = {
        "llama": _causal("Llama", text),
        "qwen2": _causal("Qwen2", text),
        "gemma": _causal("Gemma", text, head_dim),
        "gpt2": _gpt2(num_blocks, hidden_size),
        "mistral": _causal("Mistral", text, {"sliding_window": None}),
        "phi": _causal("Phi", text),
        "mixtral": _causal("Mixtral", text, {"num_local_experts": 4, "num_experts_per_tok": 2}),
        "qwen3": _causal("Qwen3", text, head_dim),
        "gemma2": _causal("Gemma2", text, _windows(num_blocks, hidden_size)),
        "gemma3": TinyClass(
            config="Gemma3TextConfig", model="Gemma3ForCausalLM", fields=gemma3_text(num_blocks, hidden_size)
        ),
        "gpt_neox": _causal("GPTNeoX", {name: text[name] for name in text if name != "num_key_value_heads"}),
        "olmoe": _causal("Olmoe", text, {"num_experts": 4, "num_experts_per_tok": 2}),
        "qwen3_next": _causal("Qwen3Next", text, head_dim, _linear_attention(num_blocks)),
        "lfm2": _causal("Lfm2", text, convolutions),
        "falcon_mamba": _causal("FalconMamba", _shared_fields(), sizes, {"state_size": 8}),
    }
    if architecture not in classes:
        raise ValueError(f"there is no tiny model of architecture {architecture!r}")
    return classes[architecture]


def text_fields(num_blocks: int, hidden_size: int) -> dict[str, Any]:
    """Return what the configurations of attention models state alike."""
    return {
        **_shared_fields(),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": MAX_POSITIONS,
    }


def gemma3_text(num_blocks: int, hidden_size: int) -> dict[str, Any]:
    """Return the configuration of a Gemma 3 text decoder."""
    return {**text_fields(num_blocks, hidden_size), **_windows(num_blocks, hidden_size)}


def _causal(family: str, *fields: dict[str, Any]) -> TinyClass:
    merged = {name: value for part in fields for name, value in part.items()}
    return TinyClass(config=f"{family}Config", model=f"{family}ForCausalLM", fields=merged)


def _gpt2(num_blocks: int, hidden_size: int) -> TinyClass:
    sizes = {"n_embd": hidden_size, "n_layer": num_blocks, "n_head": HEADS, "n_positions": MAX_POSITIONS}
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    fields = {**_shared_fields(), **sizes, **no_dropout}
    return TinyClass(config="GPT2Config", model="GPT2LMHeadModel", fields=fields)


def _shared_fields() -> dict[str, Any]:
    return {
        "vocab_size": VOCAB_SIZE,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "tie_word_embeddings": False,
        # Wider than usual, so that a change in one block shows in the logits of so small a model.
        "initializer_range": 0.2,
    }


def _windows(num_blocks: int, hidden_size: int) -> dict[str, Any]:
    return {
        "head_dim": hidden_size // HEADS,
        "query_pre_attn_scalar": hidden_size // HEADS,
        "sliding_window": SLIDING_WINDOW,
        "layer_types": _alternating("sliding_attention", num_blocks),
    }


def _linear_attention(num_blocks: int) -> dict[str, Any]:
    return {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": _alternating("linear_attention", num_blocks),
        # No experts: they have families of their own here.
        "mlp_only_layers": list(range(num_blocks)),
        "num_experts": 4,
    }


def _alternating(kind: str, num_blocks: int) -> list[str]:
    return [kind if block % 2 == 0 else "full_attention" for block in range(num_blocks)]
