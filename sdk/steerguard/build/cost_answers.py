"""The model's own answers for a cost model, sampled as a search samples them: negatives, and positives if asked for.

Only token ids are kept, and only in the cache of build steps; no artifact holds an answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steerguard.build.answers import AnsweredPrompts
from steerguard.build.contrast import Conversation, PromptSet
from steerguard.build.donor import end_of_turn
from steerguard.build.recipe_cost import OwnAnswers
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.models.chat import encode_prompts, render


def sampled_answers_of(
    context: BuildContext,
    prompts: PromptSet,
    settings: OwnAnswers,
    *,
    weights: str,
    step: str,
    begins: Sequence[str] | None = None,
) -> AnsweredPrompts:
    """Return the target's own answers to prompts, from the cache if there.

    Args:
        context: the build; its seed decides the draws.
        prompts: what is answered.
        settings: how many tokens, how they are drawn, and which answers are begun by force.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
        begins: per prompt the forced beginning of its answer; None draws them as the settings say.
    """
    seed = context.recipe.document.seed
    forced = _drawn_begins(len(prompts), settings, seed) if begins is None else tuple(begins)
    depends_on = {
        **context.batched_identity(),
        "prompts": prompts.content_digest,
        "begins": digest(list(forced)),
        "tokens": settings.tokens,
        "temperature": f"{settings.temperature:g}",
        "seed": seed,
        "run_in": weights,
    }

    def compute() -> dict[str, Tensor]:
        ids = sampled_answers(
            in_weight_type(context.model, weights),
            context.tokenizer,
            prompts.conversations,
            forced,
            tokens=settings.tokens,
            temperature=settings.temperature,
            seed=seed,
            batch_size=context.recipe.document.batch_size,
            progress=context.progress.step(step, len(prompts)),
        )
        return {"answers": ids}

    ids = context.cache.run("sampled-answers", depends_on, compute)["answers"]
    return AnsweredPrompts(prompts=prompts, begins=forced, ids=ids)


def sampled_answers(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    begins: Sequence[str | None],
    *,
    tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    progress: Callable[[int], None],
) -> Tensor:
    """Return the model's own answers as ids, int64 `[n, tokens]`, padded with -1 after the end of the turn.

    Prompts of like length share a batch, so that little is computed for padding. The draws are torch's, from the whole
    distribution; the state of its generators is as before when this returns.

    Args:
        model: a decoder-only model with `generate`.
        tokenizer: its tokenizer, with a chat template.
        conversations: what is answered.
        begins: per conversation a forced beginning of the answer or None; it is no part of what is returned.
        tokens: answer tokens to keep.
        temperature: 0 answers greedily.
        seed: of the draws.
        batch_size: prompts per call.
        progress: called with the number of prompts done so far.
    """
    lengths = [len(row.ids) for row in encode_prompts(tokenizer, conversations, begins)]
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    answers = torch.full((len(order), tokens), -1, dtype=torch.int64)
    end = end_of_turn(tokenizer)
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            forced = [begins[index] for index in rows]
            inputs = render(tokenizer, [conversations[index] for index in rows], prefills=forced, device=model.device)
            full = model.generate(**inputs, max_new_tokens=tokens, pad_token_id=end, **drawn)
            new = full[:, inputs["input_ids"].shape[1] :].cpu()
            ended = (new == end).cumsum(dim=1) > 1
            answers[rows, : new.shape[1]] = new.masked_fill(ended, -1)
            progress(start + len(rows))
    return answers


def _drawn_begins(count: int, settings: OwnAnswers, seed: int) -> tuple[str | None, ...]:
    """Return for each prompt the forced beginning of its answer, or None; drawn alike for every set of prompts."""
    # Not security: a draw that is the same for the same seed.
    draw = random.Random(seed)  # noqa: S311 - see the line above
    return tuple(draw.choice(settings.begin) if draw.random() < settings.begin_share else None for _ in range(count))
