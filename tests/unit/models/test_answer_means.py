"""Means over forced answers equal those of one unpadded forward per conversation."""

from __future__ import annotations

import pytest
import torch

from steerguard.models.answer_means import capture_answer_means
from steerguard.models.chat import encode_prompts
from steerguard.testing import tiny_model

CHATS = [[{"role": "user", "content": text}] for text in ("Hello.", "A much longer question than that?", "Hm")]
ANSWERS = [(40, 41, 42), (50,), (60, 61)]


def states(model, ids, blocks):
    seen = []
    handles = [
        model.model.layers[block].register_forward_hook(lambda *call: seen.append(call[2][0].double()))
        for block in blocks
    ]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen, dim=1)  # [tokens, blocks, width]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_means_equal_a_forward_per_conversation(chatml_tokenizer, batch_size):
    model, blocks = tiny_model("llama"), (1, 3)
    prompts = [prompt.ids for prompt in encode_prompts(chatml_tokenizer, CHATS)]
    read = [states(model, prompt + answer, blocks) for prompt, answer in zip(prompts, ANSWERS, strict=True)]
    ends = [len(prompt) for prompt in prompts]
    means = capture_answer_means(model, chatml_tokenizer, CHATS, ANSWERS, blocks, batch_size=batch_size)
    prompt = torch.stack([rows[: end - 1].mean(dim=0) for rows, end in zip(read, ends, strict=True)]).mean(dim=0)
    last = torch.stack([rows[end - 1] for rows, end in zip(read, ends, strict=True)]).mean(dim=0)
    torch.testing.assert_close(means.prompt, prompt.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means.last, last.float(), rtol=1e-4, atol=1e-5)
    assert means.steps.shape == (3, 2, 32)
    for step in range(3):
        rows = [read[i][ends[i] + step] for i in range(3) if len(ANSWERS[i]) > step]
        torch.testing.assert_close(means.steps[step], torch.stack(rows).mean(dim=0).float(), rtol=1e-4, atol=1e-5)


def test_progress_is_told_and_the_model_keeps_no_hooks(chatml_tokenizer):
    model, told = tiny_model("llama"), []
    capture_answer_means(
        model, chatml_tokenizer, CHATS, ANSWERS, [0], batch_size=2, progress=lambda *done: told.append(done)
    )
    assert told == [(2, 3), (3, 3)]
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("answers", [[(40,), (), (41,)], [(40,), (41,)]])
def test_every_conversation_needs_an_answer(chatml_tokenizer, answers):
    with pytest.raises(ValueError, match=r"at least one|shorter"):
        capture_answer_means(tiny_model("llama"), chatml_tokenizer, CHATS, answers, [0])
