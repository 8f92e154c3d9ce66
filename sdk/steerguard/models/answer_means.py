"""Mean residual states while an answer is forced: over prompt positions, at the last prompt token, per answer token.

Only sums are kept, so memory does not grow with the number of conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steerguard.errors import NonFiniteHiddenStateError
from steerguard.models.capture import evaluating, pass_blocks, selected_blocks
from steerguard.models.chat import Conversation, encode_prompts, pad_batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerMeans:
    """Means over conversations, float32 on the CPU, residual stream after each block."""

    prompt: torch.Tensor
    """Per-conversation mean over the prompt positions before the last one, `[blocks, width]`."""
    last: torch.Tensor
    """At the last token of the generation prompt, `[blocks, width]`."""
    steps: torch.Tensor
    """At each forced answer token, over the conversations whose answer is that long, `[steps, blocks, width]`."""


def capture_answer_means(
    model: PreTrainedModel,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    answers: Sequence[Sequence[int]],
    blocks: Sequence[int],
    *,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> AnswerMeans:
    """Return mean residual states of conversations that are continued by given answers.

    Args:
        model: a decoder-only model, or a multimodal model around one.
        tokenizer: its tokenizer or processor, with a chat template.
        conversations: what to render; each gets the template's generation prompt.
        answers: token ids that follow each generation prompt, at least one; without the end of the turn.
        blocks: 0-based block numbers, at least one, in the order in which they are wanted.
        batch_size: conversations per forward, at least 1.
        progress: called with (conversations done, conversations in all) after each forward.

    Returns:
        The means; `steps` is as long as the longest answer.

    Raises:
        UnsupportedArchitectureError: the blocks cannot be reached, or a block number is out of range.
        IncompatibleModelError: the chat template does not render a conversation.
        NonFiniteHiddenStateError: a mean holds NaN or an infinity.
        ValueError: there are no conversations or no answers, or not one answer for each.
    """
    if not conversations or not answers or min(len(answer) for answer in answers) < 1:
        raise ValueError("at least one conversation, and at least one id per answer")
    modules = selected_blocks(model, blocks)
    prompts = encode_prompts(tokenizer, conversations)
    rows = [(len(prompt.ids), (*prompt.ids, *answer)) for prompt, answer in zip(prompts, answers, strict=True)]
    rows.sort(key=lambda row: len(row[1]))
    positions = 2 + max(len(answer) for answer in answers)
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    sums = {module: torch.zeros(positions, width, dtype=torch.float64, device="cpu") for module in modules}
    counts = torch.zeros(positions, dtype=torch.float64, device="cpu")
    with evaluating(model), torch.no_grad():
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            batch = pad_batch([ids for _, ids in chosen], tokenizer, padding_side="right", device=model.device)
            shares = _shares([(prompt, len(ids)) for prompt, ids in chosen], positions, batch["input_ids"].shape[1])

            def add(module: nn.Module, hidden: torch.Tensor, shares: torch.Tensor = shares) -> None:
                # Padding may hold anything; its share is zero, and zero times NaN would still be NaN.
                states = hidden.to("cpu", torch.float64).flatten(0, 1)
                used = shares.any(dim=0)
                sums[module] += shares[:, used] @ states[used]

            pass_blocks(model, batch, modules, add)
            counts += (shares.reshape(positions, len(chosen), -1) > 0).any(dim=-1).sum(dim=-1)
            if progress is not None:
                progress(start + len(chosen), len(rows))
    means = torch.stack([sums[module] for module in modules], dim=1) / counts.clamp_min(1)[:, None, None]
    if not bool(torch.isfinite(means).all()):
        raise NonFiniteHiddenStateError(
            "A hidden state is not finite",
            expected="finite values",
            found="NaN or infinity",
            where="mean over conversations",
            next_step="load the model in bfloat16 or float32",
        )
    read = means.float()
    return AnswerMeans(prompt=read[0], last=read[1], steps=read[2:])


def _shares(lengths: Sequence[tuple[int, int]], positions: int, columns: int) -> torch.Tensor:
    """Return how much each column of each row counts for each position, float64 `[positions, rows * columns]`.

    Args:
        lengths: per row the length of its prompt and of prompt and answer.
        positions: 2 and the longest answer: prompt, last prompt token, answer tokens.
        columns: width of the batch, padded on the right.
    """
    shares = torch.zeros(positions, len(lengths), columns, dtype=torch.float64, device="cpu")
    for row, (prompt, end) in enumerate(lengths):
        if prompt > 1:
            shares[0, row, : prompt - 1] = 1 / (prompt - 1)
        for position, column in enumerate(range(prompt - 1, end), start=1):
            shares[position, row, column] = 1
    return shares.flatten(1)
