"""Refine the donor's vectors so that, added to the target, they make it say what the donor says.

The mean difference at the end of the generation prompt means "begin an apology"; added at every position it opens
nearly every answer with one, but a small model then continues in its own words. So a few gradient steps on the
vectors alone (no weight of the model moves) lower the cross entropy of the donor's refusal sentence under the
steered target, on harmful `build` prompts. They start from the donor's vectors and stay a constant per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from steerguard.build.donor import Lesson, answer_loss, cycle
from steerguard.build.recipe import RefinementSettings
from steerguard.errors import BuildError
from steerguard.models.blocks import decoder_blocks


def refine_vectors(
    model: Any,
    start: Tensor,
    blocks: Sequence[int],
    examples: Sequence[Lesson],
    settings: RefinementSettings,
    *,
    seed: int,
    progress: Callable[[int], None],
) -> Tensor:
    """Return refined vectors, float32 `[num_blocks, width]`; rows of other blocks stay as they are.

    Args:
        model: the target in float32; its parameters get no gradient and are not changed.
        start: vectors to start from, at the strength at which they are added.
        blocks: steered blocks.
        examples: harmful prompts with the donor's refusal as answer.
        settings: steps, examples per step, step size.
        seed: decides the order of the examples.
        progress: called with the number of steps done so far.

    Raises:
        BuildError: the loss is not finite.
    """
    chosen = list(blocks)
    vectors = start[chosen].clone().to(model.get_input_embeddings().weight.device)
    vectors.requires_grad = True
    optimiser = torch.optim.Adam([vectors], lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, settings.steps)
    pick = cycle(examples, seed)
    with steered(model, chosen, vectors):
        for step in range(settings.steps):
            offset = step * settings.batch_size
            loss = answer_loss(model, [pick(offset + index) for index in range(settings.batch_size)])
            if not bool(torch.isfinite(loss)):
                raise BuildError(
                    "The loss of the steered target is not finite.",
                    where=f"refinement step {step}",
                    found=float(loss),
                    next_step="lower artifact.refinement.learning_rate",
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimiser.step()
            schedule.step()
            progress(step + 1)
    refined = start.clone()
    refined[chosen] = vectors.detach().cpu()
    return refined


@contextmanager
def steered(model: Any, blocks: Sequence[int], vectors: Tensor) -> Iterator[None]:
    """Add vectors at the outputs of blocks, at every position, and ask no gradient of the model's weights.

    Args:
        model: a transformers model.
        blocks: decoder blocks, one per row of `vectors`.
        vectors: float32 `[len(blocks), width]`.
    """

    def adding(row: int) -> Callable[[Any, Any, Any], Any]:
        def hook(_module: Any, _arguments: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + vectors[row], *output[1:])
            return output + vectors[row]

        return hook

    modules = decoder_blocks(model)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handles = []
    try:
        for parameter in wanted:
            parameter.requires_grad_(requires_grad=False)
        for row, block in enumerate(blocks):
            handles.append(modules[block].register_forward_hook(adding(row)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in wanted:
            parameter.requires_grad_(requires_grad=True)
