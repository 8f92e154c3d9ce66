"""The model's own answers to contrast prompts, some of them begun by force: what a probe of answers is made from.

Only token ids are kept, and only in the cache of build steps; no artifact holds an answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerguard.build.contrast import PromptSet
from steerguard.build.donor import end_of_turn, own_answers
from steerguard.build.recipe_answers import AnswerSettings
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.evaluate.refusal import strict_refusal
from steerguard.models.chat import encode_prompts
from steerguard.models.inspect import text_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredPrompts:
    """Prompts of one set with what the model answered."""

    prompts: PromptSet
    begins: tuple[str | None, ...]
    """Per prompt the forced beginning of its answer, or None."""
    ids: Tensor
    """What followed, int64 `[n, tokens]`; -1 after the end of the turn."""

    def __len__(self) -> int:
        """Return how many prompts there are."""
        return len(self.prompts)

    def lengths(self, tokenizer: Any) -> list[int]:
        """Return how many tokens each answer has, without the end of its turn."""
        return ((self.ids >= 0) & (self.ids != end_of_turn(tokenizer))).sum(dim=1).tolist()

    def chosen(self, chosen: list[int]) -> AnsweredPrompts:
        """Return the prompts at these places with their answers, in the order given."""
        return AnsweredPrompts(
            prompts=self.prompts.chosen(chosen),
            begins=tuple(self.begins[index] for index in chosen),
            ids=self.ids[chosen],
        )


def answers_of(
    context: BuildContext, prompts: PromptSet, settings: AnswerSettings, *, weights: str, step: str
) -> AnsweredPrompts:
    """Return the target's own greedy answers, from the cache if there.

    Args:
        context: the build.
        prompts: what is answered.
        settings: how many tokens, and which answers are begun by force.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    begins = drawn_begins(len(prompts), settings, seed=context.recipe.document.seed)
    depends_on = {
        **context.batched_identity(),
        "prompts": prompts.content_digest,
        "begins": digest(list(begins)),
        "tokens": settings.tokens,
        "run_in": weights,
    }

    def compute() -> dict[str, Tensor]:
        lengths = [len(row.ids) for row in encode_prompts(context.tokenizer, prompts.conversations, begins)]
        # Prompts of like length share a batch, so that little is computed for padding.
        order = sorted(range(len(prompts)), key=lambda index: lengths[index])
        answers = torch.empty((len(prompts), settings.tokens), dtype=torch.int64)
        answers[order] = own_answers(
            in_weight_type(context.model, weights),
            context.tokenizer,
            [prompts.conversations[index] for index in order],
            tokens=settings.tokens,
            batch_size=context.recipe.document.batch_size,
            progress=context.progress.step(step, len(prompts)),
            begins=[begins[index] for index in order],
        )
        return {"answers": answers}

    return AnsweredPrompts(
        prompts=prompts, begins=begins, ids=context.cache.run("begun-answers", depends_on, compute)["answers"]
    )


def drawn_begins(count: int, settings: AnswerSettings, *, seed: int) -> tuple[str | None, ...]:
    """Return for each of so many prompts the forced beginning of its answer, or None; the same for the same seed.

    Every set of prompts is drawn for alike, so that a beginning says nothing of the class.
    """
    # Not security: a draw that is the same for the same seed.
    draw = random.Random(seed)  # noqa: S311 - see the line above
    return tuple(draw.choice(settings.begin) if draw.random() < settings.begin_share else None for _ in range(count))


def not_refused(answered: AnsweredPrompts, tokenizer: Any) -> AnsweredPrompts:
    """Return the prompts whose answer does not state a refusal by the strict reading; the rest taught nothing harmful."""
    plain = text_tokenizer(tokenizer)
    texts = [plain.decode(row[row >= 0].tolist(), skip_special_tokens=True) for row in answered.ids]
    return answered.chosen([index for index, text in enumerate(texts) if not strict_refusal(text)])
