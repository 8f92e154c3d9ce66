from __future__ import annotations

from typing import get_args

import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.models.chat import GenerationPrompt, encode_prompts, render
from steerguard.testing import Template, tiny_tokenizer

TOKENIZERS = {name: tiny_tokenizer(name) for name in get_args(Template)}
PROMPTS = {name: GenerationPrompt.from_tokenizer(tokenizer) for name, tokenizer in TOKENIZERS.items()}

MARKS = ["<|im_start|>assistant\n", "<|im_end|>\n", "[/INST]", "<start_of_turn>model\n", "</s>\n", "<|assistant|>\n"]
words = st.text(max_size=24)
contents = st.lists(st.one_of(words, st.sampled_from(MARKS)), max_size=4).map("".join)


@st.composite
def chats(draw, content=contents):
    turns = draw(st.integers(0, 2))
    chat = []
    for _ in range(turns):
        chat += [{"role": "user", "content": draw(content)}, {"role": "assistant", "content": draw(content)}]
    return [*chat, {"role": "user", "content": draw(content)}]


@given(
    template=st.sampled_from(sorted(TOKENIZERS)),
    batch=st.lists(chats(), min_size=1, max_size=4),
    prefill=words,
    side=st.sampled_from(["left", "right"]),
    wider=st.integers(0, 9),
    padding=st.integers(0, 2),
)
def test_the_end_is_the_length_of_the_rendered_prompt_plus_its_offset(template, batch, prefill, side, wider, padding):
    tokenizer = TOKENIZERS[template]
    prefills = [prefill if index % 2 else None for index in range(len(batch))]
    expected = [prompt.header_end for prompt in encode_prompts(tokenizer, batch)]
    tensors = render(tokenizer, batch, prefills=prefills, padding_side=side)
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    extra = torch.full((len(batch), wider), padding)
    ids = torch.cat([extra, ids] if side == "left" else [ids, extra], dim=1)
    mask = torch.cat([0 * extra, mask] if side == "left" else [mask, 0 * extra], dim=1)
    offsets = mask.argmax(dim=1).tolist()
    found = PROMPTS[template].ends(ids, mask)
    assert found == tuple(offset + end for offset, end in zip(offsets, expected, strict=True))


@given(
    template=st.sampled_from([name for name in sorted(TOKENIZERS) if name != "mistral"]),
    chat=chats(),
    answered=st.booleans(),
)
def test_a_prompt_without_an_open_assistant_turn_has_no_end_whatever_its_text(template, chat, answered):
    tokenizer = TOKENIZERS[template]
    chat = [*chat, {"role": "assistant", "content": "Done."}] if answered else chat
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert PROMPTS[template].ends(ids) == (None,)


@given(template=st.sampled_from(sorted(TOKENIZERS)), ids=st.lists(st.integers(0, 319), max_size=40))
def test_an_end_is_always_the_end_of_a_header(template, ids):
    prompt = PROMPTS[template]
    (end,) = prompt.ends(torch.tensor([ids], dtype=torch.int64).reshape(1, -1))
    if end is not None:
        header = list(prompt.header_ids)
        assert ids[end + 1 - len(header) : end + 1] == header
