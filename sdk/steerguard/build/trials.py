"""Let the plain model answer while it is steered by raw hooks, to compare settings before an artifact exists.

Only builds use this. What a guarded model does is the engine's business; here every prompt is steered, no gate is
asked, and nothing is recorded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerguard.build.contrast import Conversation
from steerguard.build.donor import Lesson, answer_losses, own_answers
from steerguard.build.recipe_vectors import Positions
from steerguard.build.steering import changed_blocks
from steerguard.models.blocks import text_decoder
from steerguard.models.chat import encode_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """What is added at each block and phase of one answer, at its full strength; float32 `[num_blocks, width]`."""

    blocks: tuple[int, ...]
    prompt: Tensor | None
    """At prompt positions before the last one."""
    last: Tensor | None
    """At the last token of the generation prompt."""
    decode: Tensor | None
    """At every generated token that is fed back; None where `steps` says it, or nothing is added."""
    steps: Tensor | None = None
    """`[steps, num_blocks, width]`: at the t-th generated token that is fed back; then nothing."""

    @property
    def content_digest(self) -> str:
        """`sha256:<hex>` over blocks and added values, for cache keys."""
        content = hashlib.sha256(repr(self.blocks).encode())
        for name, tensor in (
            ("prompt", self.prompt),
            ("last", self.last),
            ("decode", self.decode),
            ("steps", self.steps),
        ):
            content.update(f"|{name}|".encode())
            if tensor is not None:
                rows = tensor[..., list(self.blocks), :].float().contiguous()
                content.update(f"{tuple(rows.shape)}".encode())
                content.update(rows.numpy().tobytes())
        return f"sha256:{content.hexdigest()}"

    def change(self, block: int, hidden: Tensor, step: int) -> Tensor:
        """Return the residual stream with this steering's vectors added.

        Args:
            block: decoder block that `hidden` comes from.
            hidden: `[rows, tokens, width]`, padded on the left.
            step: -1 in the prefill, else the number of the generated token that is fed back, from 0.
        """
        if step >= 0:
            source = self.decode
            if self.steps is not None:
                source = self.steps[step] if step < self.steps.shape[0] else None
            return hidden if source is None else hidden + source[block].to(hidden)
        added = torch.zeros(hidden.shape[1:], dtype=hidden.dtype, device=hidden.device)
        if self.prompt is not None:
            added[:-1] = self.prompt[block].to(hidden)
        if self.last is not None:
            added[-1] = self.last[block].to(hidden)
        return hidden + added


def steering_of(
    vectors: Mapping[str, Tensor], blocks: tuple[int, ...], strength: float, positions: Positions | None
) -> Steering:
    """Return the steering of an artifact's tensors at one strength.

    Args:
        vectors: `theta`, or the tensors of a schedule: `theta_prompt`, `theta_last` and `theta_decode` or `theta_steps`.
        blocks: steered blocks.
        strength: multiple of the vectors.
        positions: where a constant vector is added; None for a schedule.
    """
    scaled = {name: tensor.float() * strength for name, tensor in vectors.items()}
    if positions is None:
        return Steering(
            blocks=blocks,
            prompt=scaled["theta_prompt"],
            last=scaled["theta_last"],
            decode=scaled.get("theta_decode"),
            steps=scaled.get("theta_steps"),
        )
    theta = scaled["theta"]
    return Steering(
        blocks=blocks,
        prompt=theta if positions in {"all", "prefill"} else None,
        last=theta if positions != "decode" else None,
        decode=theta if positions != "prefill" else None,
    )


def steered_answers(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    steering: Steering | None,
    *,
    tokens: int,
    batch_size: int,
    progress: Callable[[int], None],
) -> Tensor:
    """Return greedy answers as ids, int64 `[n, tokens]`, padded with -1 after the end of the turn.

    Args:
        model: the plain model; its hooks are gone afterwards.
        tokenizer: its tokenizer.
        conversations: prompts; every one is steered.
        steering: None leaves the model alone.
        tokens: new tokens at most.
        batch_size: prompts per call.
        progress: called with the number of prompts done so far.
    """
    lengths = [len(prompt.ids) for prompt in encode_prompts(tokenizer, conversations)]
    # Prompts of like length share a batch, so that little is computed for padding.
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    answers = torch.full((len(lengths), tokens), -1, dtype=torch.int64)
    with _steered(model, steering):
        answers[order] = own_answers(
            model,
            tokenizer,
            [conversations[index] for index in order],
            tokens=tokens,
            batch_size=batch_size,
            progress=progress,
        )
    return answers


def plain_losses(
    model: Any, tokenizer: Any, conversations: Sequence[Conversation], answers: Tensor, *, batch_size: int
) -> Tensor:
    """Return the mean cross entropy per token of answers under the plain model, float64 `[n]`.

    Args:
        model: the plain model.
        tokenizer: its tokenizer.
        conversations: prompts.
        answers: ids as `steered_answers` returns them.
        batch_size: answers per forward.
    """
    prompts = encode_prompts(tokenizer, conversations)
    losses = torch.empty(len(prompts), dtype=torch.float64)
    lessons = [
        Lesson(prompt=prompt.ids, answer=tuple(row[row >= 0].tolist()))
        for prompt, row in zip(prompts, answers, strict=True)
    ]
    order = sorted(range(len(lessons)), key=lambda index: len(lessons[index].prompt) + len(lessons[index].answer))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        losses[chosen] = answer_losses(model, [lessons[index] for index in chosen])
    return losses


@contextmanager
def _steered(model: Any, steering: Steering | None) -> Iterator[None]:
    if steering is None:
        yield
        return
    step = -1

    def count(_module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        nonlocal step
        fed = keywords.get("input_ids", arguments[0] if arguments else None)
        fed = keywords["inputs_embeds"] if fed is None else fed
        # One token is fed back per decode pass; a prefill has at least the header and a message.
        step = -1 if fed.shape[1] > 1 else step + 1

    def changing(block: int) -> Callable[[Tensor], Tensor]:
        return lambda hidden: steering.change(block, hidden, step)

    counting = text_decoder(model).register_forward_pre_hook(count, with_kwargs=True)
    try:
        with changed_blocks(model, {block: changing(block) for block in steering.blocks}):
            yield
    finally:
        counting.remove()
