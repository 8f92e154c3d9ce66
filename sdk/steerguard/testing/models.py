"""Tiny models and tokenizers with the real interfaces: built offline, random, the same for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Architecture = Literal["llama", "qwen2", "gemma", "gpt2", "mistral", "phi", "mixtral", "llava"]
Template = Literal["chatml", "llama3", "gemma", "mistral", "zephyr", "phi3"]

VOCAB_SIZE = 320
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
IMAGE_TOKEN = "<image>"  # noqa: S105  not a secret
IMAGE_TOKEN_ID = 3
MAX_POSITIONS = 1024

_IMAGE_SIZE, _PATCH_SIZE = 28, 14

_CONTROL_TOKENS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "chatml": ("<|im_start|>", "<|im_end|>", ()),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>")),
    "gemma": ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>")),
    "mistral": ("<s>", "</s>", ("[INST]", "[/INST]")),
    "zephyr": ("<s>", "</s>", ()),
    "phi3": ("<s>", "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
}
"""Per template: beginning of sequence, end of sequence, further control tokens."""

_TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
        "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + '[/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "phi3": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
}

_MERGED_WORDS = ("user", "model", "system", "assistant")


def tiny_tokenizer(template: Template = "chatml") -> PreTrainedTokenizerFast:
    """Build a byte-level tokenizer of 320 ids: any text can be encoded, and every token that it knows decodes.

    Args:
        template: the style of its chat template and control tokens.

    Returns:
        A fast tokenizer with pad id 0, beginning of sequence 1, end of sequence 2 and `<image>` 3, padding left.
    """
    bos, eos, further = _CONTROL_TOKENS[template]
    control = ["<|pad|>", bos, eos, IMAGE_TOKEN, *further]
    words, merges = _merges()
    plain = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    control += [f"<|reserved_{index}|>" for index in range(VOCAB_SIZE - len(control) - len(plain))]
    vocab = {token: index for index, token in enumerate([*control, *plain])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",  # noqa: S106  not a secret
        bos_token=bos,
        eos_token=eos,
        chat_template=_TEMPLATES[template],
        padding_side="left",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    architecture: Architecture = "llama",
    *,
    num_blocks: int = 4,
    hidden_size: int = 32,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Build a random model of a real architecture that fits `tiny_tokenizer`.

    Args:
        architecture: which family; `llava` is multimodal around a Llama decoder.
        num_blocks: decoder blocks, at least 1.
        hidden_size: width of the residual stream, a multiple of 8.
        seed: same seed, same weights; the global random state is neither used nor changed.
        dtype: type of the weights.

    Returns:
        A model in eval mode on the CPU.
    """
    config, model_class = _configured(architecture, num_blocks, hidden_size)
    config.dtype = dtype
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config)
    generation = model.generation_config
    if generation is not None:
        generation.pad_token_id, generation.bos_token_id, generation.eos_token_id = PAD_ID, BOS_ID, EOS_ID
    return model.to(dtype).eval()


def _configured(architecture: Architecture, num_blocks: int, hidden_size: int) -> tuple[Any, Any]:
    heads = 4
    shared: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "tie_word_embeddings": False,
        # Wider than usual, so that a change in one block shows in the logits of so small a model.
        "initializer_range": 0.2,
    }
    text = {
        **shared,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": MAX_POSITIONS,
    }
    match architecture:
        case "llama":
            return LlamaConfig(**text), LlamaForCausalLM
        case "qwen2":
            return Qwen2Config(**text), Qwen2ForCausalLM
        case "gemma":
            return GemmaConfig(**text, head_dim=hidden_size // heads), GemmaForCausalLM
        case "mistral":
            return MistralConfig(**text, sliding_window=None), MistralForCausalLM
        case "phi":
            return PhiConfig(**text), PhiForCausalLM
        case "mixtral":
            return MixtralConfig(**text, num_local_experts=4, num_experts_per_tok=2), MixtralForCausalLM
        case "gpt2":
            sizes = {"n_embd": hidden_size, "n_layer": num_blocks, "n_head": heads, "n_positions": MAX_POSITIONS}
            no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return GPT2Config(**shared, **sizes, **no_dropout), GPT2LMHeadModel
        case "llava":
            vision = CLIPVisionConfig(
                hidden_size=hidden_size,
                intermediate_size=2 * hidden_size,
                num_hidden_layers=2,
                num_attention_heads=heads,
                image_size=_IMAGE_SIZE,
                patch_size=_PATCH_SIZE,
            )
            config = LlavaConfig(
                vision_config=vision,
                text_config=LlamaConfig(**text),
                image_token_index=IMAGE_TOKEN_ID,
                tie_word_embeddings=False,
            )
            return config, LlavaForConditionalGeneration


def _merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Return merged tokens and merge rules that make the role names one token each."""
    words: list[str] = []
    merges: list[tuple[str, str]] = []
    for word in _MERGED_WORDS:
        for length in range(2, len(word) + 1):
            if word[:length] not in words:
                words.append(word[:length])
                merges.append((word[: length - 1], word[length - 1]))
    return words, merges
