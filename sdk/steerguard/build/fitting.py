"""Fit steering vectors by gradient so that the steered model says one of several refusals to harmful prompts.

No weight of the model moves: Adam changes one vector per steered block. Each example of a step draws one of the
wordings, so that no single sentence is learnt. With `keep_weight` the steered model is also held to its own answers
to benign prompts. No paper describes these steps; figures measured with such vectors are figures of the fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steerguard.build.donor import Lesson, answer_loss, cycle
from steerguard.build.recipe_vectors import FittedRefusalRecipe, Positions
from steerguard.build.steering import changed_blocks, without_gradients
from steerguard.errors import BuildError


def fit_vectors(
    model: Any,
    start: Tensor,
    prompts: Sequence[tuple[int, ...]],
    sentences: Sequence[tuple[int, ...]],
    kept: Sequence[Lesson],
    settings: FittedRefusalRecipe,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Return fitted vectors, float32 `[num_blocks, width]`, and the loss of the sentences at each step, `[steps]`.

    Args:
        model: the target in float32; its parameters get no gradient and are not changed.
        start: vectors to start from, `[num_blocks, width]`; rows of blocks that are not steered stay as they are.
        prompts: ids of rendered harmful prompts.
        sentences: ids of the refusals, each with the end of the turn.
        kept: benign prompts with the target's own answers; used when `keep_weight` is positive.
        settings: steered blocks, steps, examples per step, step size, positions.
        seed: decides the order of the prompts and the draw of the wordings.
        progress: called with the number of steps done so far.

    Raises:
        BuildError: the loss is not finite.
    """
    chosen = list(settings.blocks)
    vectors = start[chosen].clone().to(model.get_input_embeddings().weight.device)
    vectors.requires_grad = True
    optimiser = torch.optim.Adam([vectors], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, settings.steps)
    # Not security: the same seed draws the same wordings.
    draw = random.Random(seed)  # noqa: S311 - see the line above
    pick, keep = cycle(prompts, seed), cycle(kept, seed + 1) if kept else None
    losses = torch.empty(settings.steps)
    with without_gradients(model):
        for step in range(settings.steps):
            places = range(step * settings.batch_size, (step + 1) * settings.batch_size)
            refusing = [Lesson(prompt=pick(place), answer=draw.choice(sentences)) for place in places]
            loss = steered_loss(model, chosen, vectors, refusing, settings.positions)
            losses[step] = loss.detach()
            if keep is not None and settings.keep_weight > 0:
                keeping = [keep(place) for place in places]
                loss = loss + settings.keep_weight * steered_loss(model, chosen, vectors, keeping, settings.positions)
            if not bool(torch.isfinite(loss)):
                raise BuildError(
                    "The loss of the steered target is not finite.",
                    where=f"fitting step {step}",
                    found=float(loss),
                    next_step="lower artifact.learning_rate",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
            schedule.step()
            progress(step + 1)
    fitted = start.clone()
    fitted[chosen] = vectors.detach().cpu()
    return fitted, losses


def steered_loss(
    model: Any, blocks: Sequence[int], vectors: Tensor, batch: Sequence[Lesson], positions: Positions = "all"
) -> Tensor:
    """Return the cross entropy of the answers while vectors are added at block outputs.

    Args:
        model: a transformers model.
        blocks: decoder blocks, one per row of `vectors`.
        vectors: float32 `[len(blocks), width]`.
        batch: prompts with answers.
        positions: where the vectors are added; answers count as generated tokens.
    """
    mask = _positions(batch, positions).to(vectors.device)

    def adding(vector: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda hidden: hidden + mask[:, :, None] * vector

    with changed_blocks(model, {block: adding(vectors[row]) for row, block in enumerate(blocks)}):
        return answer_loss(model, batch)


def _positions(batch: Sequence[Lesson], positions: Positions) -> Tensor:
    """Return 1 where a vector is added, float32 `[rows, longest]`; padding is on the right."""
    width = max(len(lesson.prompt) + len(lesson.answer) for lesson in batch)
    columns = torch.arange(width).expand(len(batch), width)
    starts = torch.tensor([len(lesson.prompt) for lesson in batch])[:, None]
    match positions:
        case "all":
            chosen = columns >= 0
        case "last_prompt_token_and_decode":
            chosen = columns >= starts - 1
        case "decode":
            chosen = columns >= starts
        case "prefill":
            chosen = columns < starts
    return chosen.float()
