"""Steered answers with a cache and padding equal a full recomputation per prompt with vectors per column."""

from __future__ import annotations

import pytest
import torch

from steerguard.build.steering import changed_blocks
from steerguard.build.trials import plain_losses, steered_answers, steering_of
from steerguard.models.chat import encode_prompts
from steerguard.testing import tiny_model
from steerguard.testing.models import EOS_ID

CHATS = tuple(({"role": "user", "content": text},) for text in ("Hello.", "A much longer question than that?", "Hm"))
BLOCKS, TOKENS = (1, 2), 7


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


CONSTANT = {"theta": random(4, 32, seed=1)}
BY_PHASE = {name: random(4, 32, seed=seed) for seed, name in enumerate(("theta_prompt", "theta_last", "theta_decode"))}
BY_STEP = {
    "theta_prompt": BY_PHASE["theta_prompt"],
    "theta_last": BY_PHASE["theta_last"],
    "theta_steps": random(3, 4, 32, seed=7),
}


def at_column(vectors, positions, column, end):
    """The vectors [num_blocks, width] that are added at one column of an unpadded row."""
    nothing = torch.zeros(4, 32)
    if positions is not None:
        reached = {
            "all": True,
            "last_prompt_token_and_decode": column >= end,
            "decode": column > end,
            "prefill": column <= end,
        }[positions]
        return vectors["theta"] if reached else nothing
    if column < end:
        return vectors["theta_prompt"]
    if column == end:
        return vectors["theta_last"]
    if "theta_decode" in vectors:
        return vectors["theta_decode"]
    step = column - end - 1
    return vectors["theta_steps"][step] if step < 3 else nothing


def recomputed(model, prompt, vectors, positions, strength):
    ids, answer = list(prompt), []
    while len(answer) < TOKENS:
        added = torch.stack([at_column(vectors, positions, column, len(prompt) - 1) for column in range(len(ids))])
        changes = {block: lambda hidden, block=block: hidden + strength * added[:, block] for block in BLOCKS}  # noqa: B023
        with changed_blocks(model, changes), torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        answer.append(token)
        ids.append(token)
        if token == EOS_ID:
            break
    return answer


@pytest.mark.parametrize(
    ("vectors", "positions"),
    [
        (CONSTANT, "all"),
        (CONSTANT, "last_prompt_token_and_decode"),
        (CONSTANT, "decode"),
        (CONSTANT, "prefill"),
        (BY_PHASE, None),
        (BY_STEP, None),
    ],
)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_steered_answers_equal_a_recomputation_without_cache_or_padding(
    chatml_tokenizer, vectors, positions, architecture
):
    model = tiny_model(architecture)
    steering = steering_of(vectors, BLOCKS, 0.5, positions)
    answers = steered_answers(
        model, chatml_tokenizer, CHATS, steering, tokens=TOKENS, batch_size=2, progress=lambda _done: None
    )
    for prompt, row in zip(encode_prompts(chatml_tokenizer, CHATS), answers, strict=True):
        assert row[row >= 0].tolist() == recomputed(model, prompt.ids, vectors, positions, 0.5)


def test_steering_changes_answers_and_leaves_no_hooks(chatml_tokenizer):
    model = tiny_model("llama")
    plain, steered = (
        steered_answers(model, chatml_tokenizer, CHATS, one, tokens=4, batch_size=3, progress=lambda _done: None)
        for one in (None, steering_of(CONSTANT, BLOCKS, 1.0, "all"))
    )
    assert (plain != steered).any()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_losses_are_those_of_the_plain_model(chatml_tokenizer):
    model = tiny_model("llama")
    answers = torch.tensor([[40, 41, -1], [50, -1, -1], [60, 61, 62]])
    losses = plain_losses(model, chatml_tokenizer, CHATS, answers, batch_size=2)
    for prompt, row, loss in zip(encode_prompts(chatml_tokenizer, CHATS), answers, losses, strict=True):
        answer = row[row >= 0].tolist()
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt.ids, *answer]])).logits[0]
        predicted = logits[len(prompt.ids) - 1 : -1].double().log_softmax(dim=-1)
        expected = -predicted[range(len(answer)), answer].mean()
        assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_the_digest_of_a_steering_depends_on_what_is_added():
    one = steering_of(CONSTANT, BLOCKS, 0.5, "all")
    assert one.content_digest == steering_of(CONSTANT, BLOCKS, 0.5, "all").content_digest
    others = [
        steering_of(CONSTANT, BLOCKS, 0.25, "all"),
        steering_of(CONSTANT, BLOCKS, 0.5, "decode"),
        steering_of(CONSTANT, (1,), 0.5, "all"),
        steering_of(BY_STEP, BLOCKS, 0.5, None),
    ]
    assert len({other.content_digest for other in (one, *others)}) == 5
