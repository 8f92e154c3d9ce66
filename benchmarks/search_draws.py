"""Plain answers drawn several at a time, with the states that a cost model reads: best-of-N for any cost model.

`best_of_n` with `start: always` draws N answers from the model and gives the cheapest. The answers do not depend on the
cost model, so they are drawn once, many prompts at a time, and the cheapest is found afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from prompt_groups import PromptGroup
from search_sets import SEED, Batch, batches, sampled, trimmed

from steerguard.critics.cost import CostInputs
from steerguard.models.blocks import decoder_blocks

BLOCKS = (12, 16, 20)
"""Whose states are kept."""
COPIES = 8
"""Answers of a round."""
PROMPTS = 8
"""Prompts at a time."""


@dataclass(frozen=True, slots=True)
class Draws:
    """Answers of one round, by prompt and copy."""

    tokens: list[list[list[int]]]
    means: torch.Tensor
    """float32 `[prompts, copies, blocks, width]`: as `CostInputs.means`, at `BLOCKS`."""
    read: torch.Tensor
    """int64 `[prompts, copies]`."""

    def inputs(self, blocks: Sequence[int]) -> CostInputs:
        """Return what a cost model is given, one row per answer.

        Raises:
            ValueError: it reads a block that was not kept.
        """
        parts = [BLOCKS.index(block) for block in blocks]
        return CostInputs(means=self.means[:, :, parts].flatten(0, 1), read=self.read.flatten())


def draw_round(model: Any, tokenizer: Any, group: PromptGroup, *, tokens: int, number: int, folder: Path) -> None:
    """Draw one round of answers to a set, or what of it is not in the folder yet; one file per batch.

    Args:
        model: unwrapped.
        tokenizer: its tokenizer.
        group: the set.
        tokens: most new tokens of an answer.
        number: of the round, from 0; each has its own seed.
        folder: where they are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(group.chats), PROMPTS):
        file = folder / f"{group.id}.{number}.{first}.pt"
        if file.is_file():
            continue
        batch = next(batches(tokenizer, group, PROMPTS, start=first))
        drawn = _drawn(model, tokenizer, batch, tokens=tokens, seed=SEED + 1_000_000 * (1 + number))
        staged = file.with_suffix(".part")
        torch.save(drawn, staged)
        staged.replace(file)


def draws_of(model: Any, tokenizer: Any, batch: Batch, *, tokens: int, seed: int) -> Draws:
    """Return one round of answers to one batch, drawn now; arguments as for `draw_round`."""
    return Draws(**_drawn(model, tokenizer, batch, tokens=tokens, seed=seed))


def kept_draws(group: PromptGroup, rounds: int, folder: Path) -> Draws | None:
    """Return the answers of all rounds side by side, for the first prompts that have them all; None without any."""
    found: list[list[dict[str, Any]]] = []
    for first in range(0, len(group.chats), PROMPTS):
        files = [folder / f"{group.id}.{number}.{first}.pt" for number in range(rounds)]
        if not all(file.is_file() for file in files):
            break
        found.append([torch.load(file, weights_only=True) for file in files])
    if not found:
        return None
    return Draws(
        tokens=[
            [answer for answers in prompt for answer in answers]
            for parts in found
            for prompt in zip(*(part["tokens"] for part in parts), strict=True)
        ],
        means=torch.cat([torch.cat([part["means"] for part in parts], dim=1) for parts in found]),
        read=torch.cat([torch.cat([part["read"] for part in parts], dim=1) for parts in found]),
    )


def _drawn(model: Any, tokenizer: Any, batch: Batch, *, tokens: int, seed: int) -> dict[str, Any]:
    with _states(model) as states:
        ids = sampled(model, batch, tokens=tokens, seed=seed, copies=COPIES)
    return _kept(ids, states, tokenizer.eos_token_id)


@contextmanager
def _states(model: Any) -> Iterator[list[list[torch.Tensor]]]:
    """Gather the newest state of every row behind each of `BLOCKS`, float32 `[rows, width]`, pass by pass."""
    found: list[list[torch.Tensor]] = [[] for _ in BLOCKS]

    def hook(place: int) -> Any:
        def act(_module: Any, _arguments: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            found[place].append(hidden[:, -1].float())

        return act

    layers = decoder_blocks(model)
    handles = [layers[block].register_forward_hook(hook(place)) for place, block in enumerate(BLOCKS)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _kept(ids: torch.Tensor, states: list[list[torch.Tensor]], end: int) -> dict[str, Any]:
    answers = [trimmed(row, end) for row in ids.tolist()]
    # The first pass is the prompt; the pass behind it is of the first generated token.
    passed = torch.stack([torch.stack(block[1:]) for block in states], dim=2)
    read = torch.tensor([min(len(row) - 1, len(passed)) for row in answers])
    counts = torch.arange(len(passed))[:, None] < read
    means = (passed * counts[:, :, None, None]).sum(dim=0) / read.clamp(min=1)[:, None, None]
    prompts = len(answers) // COPIES
    return {
        "tokens": [answers[index * COPIES : (index + 1) * COPIES] for index in range(prompts)],
        "means": means.unflatten(0, (prompts, COPIES)),
        "read": read.unflatten(0, (prompts, COPIES)),
    }
