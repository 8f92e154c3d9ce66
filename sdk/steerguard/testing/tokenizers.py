"""A tiny byte-level tokenizer with the control tokens and chat templates of real families."""

from __future__ import annotations

from typing import Literal

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

Template = Literal["chatml", "llama3", "gemma", "mistral", "zephyr", "phi3"]

VOCAB_SIZE = 320
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2
IMAGE_TOKEN = "<image>"  # noqa: S105  not a secret
IMAGE_TOKEN_ID = 3
AUDIO_TOKEN = "<audio>"  # noqa: S105  not a secret
AUDIO_TOKEN_ID = 43
VIDEO_TOKEN_ID, VISION_START_ID, VISION_END_ID = 42, 40, 41
MAX_POSITIONS = 1024

_MODALITY_TOKENS = {
    VISION_START_ID: "<|vision_start|>",
    VISION_END_ID: "<|vision_end|>",
    VIDEO_TOKEN_ID: "<video>",
    AUDIO_TOKEN_ID: AUDIO_TOKEN,
}
"""Further tokens of multimodal models, on the last ids before the plain ones."""

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
        A fast tokenizer with pad id 0, beginning of sequence 1, end of sequence 2, `<image>` 3 and `<audio>` 43,
        padding left.
    """
    bos, eos, further = _CONTROL_TOKENS[template]
    control = ["<|pad|>", bos, eos, IMAGE_TOKEN, *further]
    words, merges = _merges()
    plain = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *words]
    first = len(control)
    reserved = range(VOCAB_SIZE - first - len(plain))
    control += [_MODALITY_TOKENS.get(first + index, f"<|reserved_{index}|>") for index in reserved]
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
