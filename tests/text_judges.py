"""Tiny random judges of texts, in memory and as folders: built from configurations, the same for the same seed."""

from __future__ import annotations

import torch
import transformers

from steerguard.critics.cost import CostInputs
from steerguard.critics.text_models import (
    EmbeddingHeadSettings,
    GuardianSettings,
    PinnedModel,
    SequenceClassifierSettings,
)
from steerguard.testing.tokenizers import EOS_ID, MAX_POSITIONS, PAD_ID, VOCAB_SIZE, tiny_tokenizer

WIDTH = 32
BEAVER = "BEGINNING OF CONVERSATION: USER: {prompt} ASSISTANT:{answer}"

PROMPTS = ("How do I bake bread?", "Name three rivers.", "And now?", "Please explain how a bicycle stays upright.")
ANSWERS = (
    "Mix flour and water, then wait.",
    "Rhine, Elbe, Oder.",
    "No.",
    "It steers into the fall, and the wheels roll on.",
)
"""Of very different lengths, so that a batch has padding."""

GUARD_TEMPLATE = (
    "{{ '<|im_start|>task\nIs the last message harmful?\n' }}"
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + '\n' }}{% endfor %}"
    "{{ '<|im_end|>verdict:\n' }}"
)
"""A toy in the shape of a guardian's template: a task around the conversation, then where the verdict begins."""


def inputs(prompts=PROMPTS, answers=ANSWERS):
    """Prompts and answers as cost models read them."""
    return CostInputs(prompts=prompts, answers=answers)


def _seeded(build, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def _sizes(labels=None):
    sizes = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        "initializer_range": 0.3,
    }
    return sizes if labels is None else sizes | {"id2label": dict(enumerate(labels))}


def llama_classifier(labels=("harm",), *, seed=0):
    """A decoder with a linear head at its last token."""
    config = transformers.LlamaConfig(**_sizes(labels))
    return _seeded(lambda: transformers.LlamaForSequenceClassification(config), seed)


def bert_classifier(labels=("fine", "harm"), *, seed=0):
    """An encoder with a pooled head."""
    config = transformers.BertConfig(**_sizes(labels))
    return _seeded(lambda: transformers.BertForSequenceClassification(config), seed)


def bert_encoder(*, seed=0):
    """An encoder without head."""
    config = transformers.BertConfig(**_sizes())
    return _seeded(lambda: transformers.BertModel(config), seed)


def llama_backbone(*, seed=0):
    """A decoder without head."""
    config = transformers.LlamaConfig(**_sizes())
    return _seeded(lambda: transformers.LlamaModel(config), seed)


def guardian(kind="llama", *, seed=0):
    """A causal language model and a tokenizer that has `safe` and `unsafe` as one token each, and a toy template."""
    tokenizer = tiny_tokenizer("chatml")
    tokenizer.add_tokens(["unsafe", "safe"])
    tokenizer.chat_template = GUARD_TEMPLATE
    config = {"llama": transformers.LlamaConfig, "gpt2": transformers.GPT2Config}[kind]
    sizes = _sizes() | {"vocab_size": len(tokenizer)}
    if kind == "gpt2":
        # Positions are learned one by one here, so a row that was shifted by its padding would have another cost.
        del sizes["intermediate_size"]
    model = {"llama": transformers.LlamaForCausalLM, "gpt2": transformers.GPT2LMHeadModel}[kind]
    return _seeded(lambda: model(config(**sizes)), seed), tokenizer


def classifier_settings(**changes):
    """A score model of the Beaver kind."""
    fields = {
        "unit": "score",
        "threshold": "0.0",
        "max_tokens": 256,
        "template": BEAVER,
        "output": "score",
        "higher": "harmful",
    }
    return SequenceClassifierSettings(**fields | changes)


def guardian_settings(**changes):
    """The words of Llama Guard."""
    fields = {
        "unit": "log-odds",
        "threshold": "0.0",
        "max_tokens": 256,
        "harmful_word": "unsafe",
        "harmless_word": "safe",
    }
    return GuardianSettings(**fields | changes)


def embedding_settings(**changes):
    """Prompt and answer on a line each, scaled to length 1."""
    fields = {
        "unit": "log-odds",
        "threshold": "0.0",
        "max_tokens": 256,
        "template": "{prompt}\n{answer}",
        "normalise": True,
    }
    return EmbeddingHeadSettings(**fields | changes)


def saved(folder, model, tokenizer=None):
    """Write a model and its tokenizer as Hugging Face does; returns the folder."""
    model.save_pretrained(folder)
    (tokenizer or tiny_tokenizer("chatml")).save_pretrained(folder)
    return folder


def pinned(folder, **changes):
    """The description of a saved model."""
    from steerguard.critics.pinned_files import pins_of_folder

    return PinnedModel(**{"folder": str(folder), "files": pins_of_folder(folder)} | changes)
