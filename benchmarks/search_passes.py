"""What one plain pass over finished answers says of them: how surprising they are, and what they cost, read once more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from prompt_groups import PromptGroup

from steerguard.critics.cost import CostInputs
from steerguard.critics.response_states import ResponseStatesCost
from steerguard.evaluate.perplexity import answer_perplexity
from steerguard.models.blocks import decoder_blocks
from steerguard.models.chat import encode_prompts, pad_batch

ROWS = 16
"""Answers of a pass."""


def perplexities(
    model: Any, tokenizer: Any, group: PromptGroup, rows: Sequence[int], answers: Sequence[Sequence[int]]
) -> list[float]:
    """Return the perplexity of each answer under the unguided model.

    Args:
        model: unwrapped.
        tokenizer: its tokenizer.
        group: the set.
        rows: the prompt of each answer.
        answers: token ids without the end token, at least one each.
    """
    forced = None if group.prefills is None else [group.prefills[row] for row in rows]
    chats = [group.chats[row] for row in rows]
    return answer_perplexity(model, tokenizer, chats, forced, answers, batch_size=ROWS)


def costs_in_one_pass(
    model: Any,
    tokenizer: Any,
    cost: ResponseStatesCost,
    group: PromptGroup,
    rows: Sequence[int],
    answers: Sequence[Sequence[int]],
) -> list[float]:
    """Return what each answer costs by a pass of prompt and answer together: no search, and no cache.

    Args:
        model: unwrapped.
        tokenizer: its tokenizer.
        cost: reads the states.
        group: the set.
        rows: the prompt of each answer.
        answers: token ids up to and with the end token, at least two each: the last one is not read.
    """
    forced = None if group.prefills is None else [group.prefills[row] for row in rows]
    prompts = encode_prompts(tokenizer, [group.chats[row] for row in rows], forced)
    found: list[float] = []
    layers = decoder_blocks(model)
    for start in range(0, len(rows), ROWS):
        part = slice(start, start + ROWS)
        spans = [
            (len(prompt.ids), len(prompt.ids) + len(answer) - 1)
            for prompt, answer in zip(prompts[part], answers[part], strict=True)
        ]
        ids = [(*prompt.ids, *answer[:-1]) for prompt, answer in zip(prompts[part], answers[part], strict=True)]
        states: dict[int, torch.Tensor] = {}

        def keep(block: int, states: dict[int, torch.Tensor] = states) -> Any:
            def act(_module: Any, _arguments: Any, output: Any) -> None:
                states[block] = (output[0] if isinstance(output, tuple) else output).float()

            return act

        handles = [layers[block].register_forward_hook(keep(block)) for block in cost.blocks]
        try:
            with torch.inference_mode():
                model(**pad_batch(ids, tokenizer, padding_side="right"), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        read = torch.stack([states[block] for block in cost.blocks], dim=1)
        means = torch.stack([read[row, :, first:end].mean(dim=1) for row, (first, end) in enumerate(spans)])
        lengths = torch.tensor([end - first for first, end in spans])
        found += cost.cost(CostInputs(means=means, read=lengths)).tolist()
    return found
