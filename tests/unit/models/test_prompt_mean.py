"""The prompt mean: which tokens count, and that nothing else does."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.errors import NonFiniteHiddenStateError
from steerguard.models.blocks import decoder_blocks
from steerguard.models.capture import capture_residuals
from steerguard.models.chat import render
from steerguard.models.prompt_mean import prompt_mean, prompt_mean_mask

CHATS = [[{"role": "user", "content": text}] for text in ("Name a river", "Hi", "Why is the sky blue, and since when?")]


@given(
    left=st.integers(0, 6),
    before=st.integers(1, 12),
    answer=st.integers(0, 5),
    right=st.integers(0, 6),
    seed=st.integers(0, 99),
)
def test_it_is_the_mean_from_the_fifth_token_through_the_end_whatever_stands_elsewhere(
    left, before, answer, right, seed
):
    hidden = torch.randn(1, left + before + answer + right, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    mask[:, left : left + before + answer] = True
    end = left + before - 1
    hidden[:, :left] = math.nan
    hidden[:, left + before + answer :] = math.inf
    found = prompt_mean(hidden, prompt_mean_mask(mask, torch.tensor([end])))
    if before <= 4:
        assert bool(found.isnan().all())
    else:
        wanted = hidden[0, left + 4 : end + 1].double().numpy().mean(axis=0)
        np.testing.assert_allclose(found[0].numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_half_precision_is_summed_in_float32():
    hidden = torch.full((1, 3004, 1), 1.0, dtype=torch.bfloat16)
    hidden[0, -1] = 1.0078125
    found = prompt_mean(hidden, prompt_mean_mask(torch.ones(1, 3004, dtype=torch.bool), torch.tensor([3003])))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1 + 0.0078125 / 3000, abs=1e-7)


def test_one_pass_gives_ends_and_means_in_the_order_asked_for(tiny_llama, chatml_tokenizer):
    blocks, over = (2, 0, 2, 1), ("prompt_mean", "end", "end", "prompt_mean")
    calls = []
    handle = decoder_blocks(tiny_llama)[0].register_forward_hook(lambda *_: calls.append(1))
    states = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, blocks, over=over, batch_size=2)
    handle.remove()
    assert len(calls) == 2
    for row, chat in enumerate(CHATS):
        with torch.no_grad():
            hidden = tiny_llama(**render(chatml_tokenizer, [chat]), output_hidden_states=True).hidden_states
        wanted = [
            hidden[b + 1][0, 4:].mean(0) if o == "prompt_mean" else hidden[b + 1][0, -1]
            for b, o in zip(blocks, over, strict=True)
        ]
        torch.testing.assert_close(states[row], torch.stack(wanted), rtol=2e-4, atol=2e-4)


def test_a_prefilled_answer_is_outside_the_mean(tiny_llama, chatml_tokenizer):
    over = ("prompt_mean", "prompt_mean")
    plain = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, (1, 3), over=over)
    prefills = ["Sure, here is", None, "Yes"]
    answered = capture_residuals(tiny_llama, chatml_tokenizer, CHATS, (1, 3), over=over, prefills=prefills)
    torch.testing.assert_close(answered, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("over", [("end",), ("end", "mean"), ("end", "end", "end")])
def test_a_wrong_choice_of_what_is_read_is_refused(over, tiny_llama, chatml_tokenizer):
    with pytest.raises(ValueError, match="over"):
        capture_residuals(tiny_llama, chatml_tokenizer, CHATS, (0, 1), over=over)


def bare(tokenizer):
    """A tokenizer whose prompts are the bytes of the message and nothing else."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = "{{ messages[0]['content'] }}"
    return changed


def test_a_prompt_that_is_too_short_has_no_mean(tiny_llama, chatml_tokenizer):
    chats = [[{"role": "user", "content": "zzzz"}]]
    tokenizer = bare(chatml_tokenizer)
    assert capture_residuals(tiny_llama, tokenizer, chats, (0,)).isfinite().all()
    with pytest.raises(NonFiniteHiddenStateError, match="too short for a prompt mean") as caught:
        capture_residuals(tiny_llama, tokenizer, chats, (0,), over=("prompt_mean",))
    assert (caught.value.where, caught.value.found) == ("conversation 0", "4 tokens")
    assert "bfloat16" not in str(caught.value)


def test_five_tokens_are_enough_for_a_mean(tiny_llama, chatml_tokenizer):
    chats = [[{"role": "user", "content": "zzzzz"}]]
    tokenizer = bare(chatml_tokenizer)
    states = capture_residuals(tiny_llama, tokenizer, chats, (0,), over=("prompt_mean",))
    torch.testing.assert_close(states, capture_residuals(tiny_llama, tokenizer, chats, (0,)))
