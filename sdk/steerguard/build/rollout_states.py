"""States of roll-outs at the end of every block: what a search would see of each answer at that moment.

One forward pass over prompt and answer reads them all. Each chunk of answers is a build step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steerguard.build.rollouts import Rollouts
from steerguard.build.steps import BuildContext
from steerguard.build.weight_types import in_weight_type
from steerguard.canonical import digest
from steerguard.critics.cost import CostInputs
from steerguard.errors import NonFiniteHiddenStateError
from steerguard.models.capture import evaluating, pass_blocks, selected_blocks
from steerguard.models.chat import encode_prompts, pad_batch

_Row = tuple[int, tuple[int, ...]]
"""Where an answer begins, and the ids of prompt and answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStates:
    """What was read of each answer at the end of each block; behind its end, what was read there."""

    means: Tensor
    """As `CostInputs.means`, float32 `[answers, blocks, parts, width]`."""
    newest: Tensor
    """As `CostInputs.newest`, `[answers, blocks, parts, width]`, in the model's own floating point type."""
    read: Tensor
    """As `CostInputs.read`, int64 `[answers, blocks]`; 0 for an answer that ended at once."""

    def at(self, block: int) -> CostInputs:
        """Return what is judged at the end of one block, counted from 0."""
        return CostInputs(means=self.means[:, block], newest=self.newest[:, block].float(), read=self.read[:, block])


def reads_at(generated: Tensor, block_tokens: int, blocks: int) -> Tensor:
    """Return how many tokens went through the model at the end of each block, int64 `[answers, blocks]`.

    The newest token of an unfinished answer, and the end of the turn of a finished one, did not.

    Args:
        generated: int64 `[answers]`, tokens of each answer with the end of its turn.
        block_tokens: tokens of a block.
        blocks: how many blocks the longest answer has.
    """
    ends = block_tokens * torch.arange(1, blocks + 1)
    return torch.minimum(ends[None, :], generated[:, None]).sub(1).clamp(min=0)


def states_of(
    context: BuildContext, rollouts: Rollouts, parts: Sequence[int], *, block_tokens: int, weights: str, step: str
) -> RolloutStates:
    """Return what a cost model and a critic read of roll-outs, from the cache where it is there.

    Args:
        context: the build.
        rollouts: answers with their prompts.
        parts: decoder blocks of the model that are read, one per part.
        block_tokens: generated tokens of a block of the search.
        weights: weight type that the target runs in.
        step: what the progress bar shows.
    """
    blocks = rollouts.ids.shape[1] // block_tokens
    read = reads_at(rollouts.generated, block_tokens, blocks)
    prompts = encode_prompts(context.tokenizer, rollouts.prompts.conversations, rollouts.begins)
    rows = [
        (len(prompts[of].ids), (*prompts[of].ids, *rollouts.ids[index, : max(read[index].tolist())].tolist()))
        for index, of in enumerate(rollouts.prompt_of.tolist())
    ]
    model = in_weight_type(context.model, weights)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][1]))
    size, report = context.recipe.document.batch_size, context.progress.step(step, len(rows))
    width = int(model.config.get_text_config(decoder=True).hidden_size)
    means = torch.zeros(len(rows), blocks, len(parts), width)
    newest = torch.zeros(len(rows), blocks, len(parts), width, dtype=next(model.parameters()).dtype)
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        chosen, reads = [rows[index] for index in chunk], read[chunk]
        depends_on = {
            **context.identity(),
            "rows": digest([list(ids) for _, ids in chosen]),
            "starts": [begin for begin, _ in chosen],
            "reads": digest(reads.tolist()),
            "run_in": weights,
        }
        passed: list[tuple[Tensor, Tensor]] = []
        for place, part in enumerate(parts):
            # A step for each block, so that another choice of blocks reads only what is new; one pass reads them all.
            compute = _one_part(model, context.tokenizer, chosen, reads, parts, place, passed)
            stored = context.cache.run("rollout-states", {**depends_on, "part": part}, compute)
            means[chunk, :, place], newest[chunk, :, place] = stored["means"], stored["newest"]
        report(start + len(chunk))
    return RolloutStates(means=means, newest=newest, read=read)


def _one_part(
    model: Any,
    tokenizer: Any,
    rows: Sequence[_Row],
    reads: Tensor,
    parts: Sequence[int],
    place: int,
    passed: list[tuple[Tensor, Tensor]],
) -> Callable[[], dict[str, Tensor]]:
    """Return what computes the states of one part; `passed` keeps what a pass for another part has read already."""

    def compute() -> dict[str, Tensor]:
        if not passed:
            passed.append(_read_states(model, tokenizer, rows, reads, parts))
        means, newest = passed[0]
        return {"means": means[:, :, place], "newest": newest[:, :, place]}

    return compute


def _read_states(
    model: Any, tokenizer: Any, rows: Sequence[_Row], reads: Tensor, parts: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return means and newest states of rows, both `[rows, blocks, parts, width]`; zero where nothing was read.

    Args:
        model: the target.
        tokenizer: its tokenizer.
        rows: where each answer begins, and the ids of prompt and answer.
        reads: int64 `[rows, blocks]`, how many answer tokens count at the end of each block.
        parts: decoder blocks.
    """
    modules = selected_blocks(model, parts)
    batch = pad_batch([ids for _, ids in rows], tokenizer, padding_side="right", device=model.device)
    starts = torch.tensor([begin for begin, _ in rows])[:, None]
    length, nothing = int(reads.max()), (reads == 0)[..., None]
    if length == 0:
        empty = torch.zeros(*reads.shape, len(parts), int(model.config.get_text_config(decoder=True).hidden_size))
        return empty, empty.to(next(model.parameters()).dtype)
    columns = batch["input_ids"].shape[1] - 1
    taken = (starts + torch.arange(length)).clamp(max=columns)
    behind = torch.arange(length) >= reads[:, -1:]
    last = (reads - 1).clamp(min=0)
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, hidden: Tensor) -> None:
        numbers = torch.arange(len(rows))[:, None]
        states = hidden.cpu()[numbers, taken].masked_fill(behind[..., None], 0)
        means = states.float().cumsum(dim=1)[numbers, last] / reads.clamp(min=1)[..., None]
        found[module] = means.masked_fill(nothing, 0), states[numbers, last].masked_fill(nothing, 0)

    with evaluating(model), torch.no_grad():
        pass_blocks(model, batch, modules, keep)
    means, newest = (torch.stack([found[module][which] for module in modules], dim=2) for which in (0, 1))
    if not bool(torch.isfinite(means).all() and torch.isfinite(newest).all()):
        raise NonFiniteHiddenStateError(
            "A hidden state is not finite",
            expected="finite values",
            found="NaN or infinity",
            where=f"blocks {list(parts)}",
            next_step="load the model in bfloat16 or float32",
        )
    return means, newest
