"""Roll-outs: several sampled answers of the model to each contrast prompt. What a critic is made from.

Only token ids are kept, and only in the cache of build steps; no artifact holds an answer. Each chunk of prompts is a
step of its own with its own seed, so that a build that was killed goes on with the chunk at which it stopped.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from steerguard.build.contrast import PromptSet
from steerguard.build.donor import end_of_turn
from steerguard.build.recipe_rollouts import RolloutSettings
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.models.capture import evaluating
from steerguard.models.chat import encode_prompts, pad_batch

_ENDED = -1
"""Stands in `ids` behind the end of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """Sampled answers to the prompts of one set; the answers to one prompt follow each other."""

    prompts: PromptSet
    begins: tuple[str | None, ...]
    """Per prompt the forced beginning of its answers, or None."""
    per_prompt: int
    ids: Tensor
    """What followed, int64 `[prompts * per_prompt, tokens]`; the end of the turn counts, -1 stands behind it."""
    hot: Tensor
    """int64 `[prompts * per_prompt]`: how many first tokens were drawn hotter than the rest."""

    def __len__(self) -> int:
        """Return how many answers there are."""
        return len(self.ids)

    @property
    def generated(self) -> Tensor:
        """Tokens of each answer, the end of its turn included, int64 `[answers]`."""
        return (self.ids != _ENDED).sum(dim=1)

    @property
    def prompt_of(self) -> Tensor:
        """Number of the prompt of each answer, int64 `[answers]`."""
        return torch.arange(len(self.prompts)).repeat_interleave(self.per_prompt)


def rollouts_of(
    context: BuildContext, prompts: PromptSet, settings: RolloutSettings, *, weights: str, step: str
) -> Rollouts:
    """Return sampled answers of the target, from the cache where they are there.

    Args:
        context: the build.
        prompts: what is answered.
        settings: how often and how each is answered.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    seed, count = context.recipe.document.seed, settings.answers_per_prompt
    begins = drawn_beginnings(len(prompts), settings, seed=seed)
    model = in_weight_type(context.model, weights)
    rows = [prompt.ids for prompt in encode_prompts(context.tokenizer, prompts.conversations, begins)]
    longest = settings.max_prompt_tokens
    kept = [index for index, row in enumerate(rows) if longest is None or len(row) <= longest]
    prompts, begins, rows = (
        prompts.chosen(kept),
        tuple(begins[index] for index in kept),
        [rows[index] for index in kept],
    )
    # Prompts of like length share a chunk, so that little is computed for padding.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    size = max(1, context.recipe.document.batch_size // count)
    report = context.progress.step(step, len(prompts))
    ids = torch.full((len(prompts), count, settings.tokens), _ENDED, dtype=torch.int64)
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        chosen = [list(rows[index]) for index in chunk]
        depends_on = {
            **context.identity(),
            "prompts": digest(chosen),
            "sampling": _sampling(settings),
            "seed": seed,
            "run_in": weights,
        }

        def compute(chosen: list[list[int]] = chosen) -> dict[str, Tensor]:
            return {"ids": sampled(model, context.tokenizer, chosen, settings, seed=_chunk_seed(seed, chosen))}

        ids[chunk] = context.cache.run("rollouts", depends_on, compute)["ids"]
        report(start + len(chunk))
    hot = torch.zeros(count, dtype=torch.int64)
    if settings.off_policy is not None:
        hot[settings.per_prompt :] = settings.off_policy.tokens
    return Rollouts(
        prompts=prompts, begins=begins, per_prompt=count, ids=ids.flatten(0, 1), hot=hot.repeat(len(prompts))
    )


def drawn_beginnings(count: int, settings: RolloutSettings, *, seed: int) -> tuple[str | None, ...]:
    """Return for each of so many prompts the forced beginning of its answers, or None; the same for the same seed."""
    # Not security: a draw that is the same for the same seed.
    draw = random.Random(seed)  # noqa: S311 - see the line above
    return tuple(draw.choice(settings.begin) if draw.random() < settings.begin_share else None for _ in range(count))


def sampled(
    model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], settings: RolloutSettings, *, seed: int
) -> Tensor:
    """Return sampled answers, int64 `[rows, answers per prompt, tokens]`, -1 behind the end of the turn.

    The generator of the process is left as it was.

    Args:
        model: the target.
        tokenizer: its tokenizer.
        rows: token ids of prompts with their generation prompts and forced beginnings.
        settings: how often and how each is answered.
        seed: of the draws.
    """
    count, end = settings.answers_per_prompt, end_of_turn(tokenizer)
    inputs = pad_batch([row for row in rows for _ in range(count)], tokenizer, padding_side="left", device=model.device)
    width = inputs["input_ids"].shape[1]
    hot = torch.zeros(count, dtype=torch.bool, device=model.device)
    if settings.off_policy is not None:
        hot[settings.per_prompt :] = True
    temperatures = _Temperatures(settings, hot.repeat(len(rows)), width)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(model), torch.inference_mode():
        torch.manual_seed(seed)
        full = model.generate(
            **inputs,
            max_new_tokens=settings.tokens,
            do_sample=True,
            temperature=1.0,  # divided by below, row by row
            top_p=settings.top_p,
            top_k=0,
            pad_token_id=end,
            logits_processor=LogitsProcessorList([temperatures]),
        )
    new = full[:, width:].cpu()
    # The first end of the turn is part of the answer; padding behind it, which may be the same id, is not.
    behind = ((new == end).cumsum(dim=1) - (new == end).long()) > 0
    answers = torch.full((len(rows) * count, settings.tokens), _ENDED, dtype=torch.int64)
    answers[:, : new.shape[1]] = new.masked_fill(behind, _ENDED)
    return answers.reshape(len(rows), count, settings.tokens)


class _Temperatures:
    """Divides logits by the temperature of their row; `generate` calls it once a step.

    Args:
        settings: with both temperatures.
        hot: bool `[rows]`, which answers begin hotter.
        width: columns of the prompts.
    """

    def __init__(self, settings: RolloutSettings, hot: Tensor, width: int) -> None:
        self._usual = torch.full(hot.shape, settings.temperature, device=hot.device)[:, None]
        off = settings.off_policy
        self._first = self._usual if off is None else self._usual.masked_fill(hot[:, None], off.temperature)
        self._until = width + (0 if off is None else off.tokens)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores / (self._first if input_ids.shape[1] < self._until else self._usual)


def _sampling(settings: RolloutSettings) -> dict[str, Any]:
    hot = settings.off_policy
    return {
        "per_prompt": settings.per_prompt,
        "tokens": settings.tokens,
        "temperature": repr(settings.temperature),
        "top_p": repr(settings.top_p),
        "off_policy": None if hot is None else [hot.per_prompt, repr(hot.temperature), hot.tokens],
    }


def _chunk_seed(seed: int, rows: list[list[int]]) -> int:
    """Return a seed that depends on the recipe's and on the prompts, so that no two chunks draw alike."""
    return int(digest([seed, rows]).removeprefix("sha256:")[:8], 16)
