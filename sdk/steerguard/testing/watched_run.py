"""One generation with every number kept: logits of each step, and the states that each decoder block was given."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from steerguard.models.blocks import decoder_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from steerguard.decision import Decision

STEPS = 8
"""Tokens that a run generates in every row: enough to see what sets in only after some decode steps."""
FEW_STEPS = 5
"""Tokens for runs in which everything that is looked for happens in the first decode steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedRun:
    """What one generation did."""

    tokens: Tensor
    """int64 `[rows, steps]`."""
    logits: list[Tensor]
    """`[rows, vocabulary]` of each step, as the model gave them."""
    decisions: tuple[Decision, ...]
    """One per row; empty for a model without a guard."""


@dataclass(slots=True)
class PassedStates:
    """Hidden states `[rows, columns, width]` where blocks meet, in the order of the passes.

    Place l is what block l was given, after every change of it; the last place is what the last block handed on.
    """

    places: list[list[Tensor]] = field(default_factory=list)

    @property
    def passes(self) -> list[int]:
        """How many passes each block has seen."""
        return [len(place) for place in self.places[:-1]]


class _Kept(LogitsProcessor):  # type: ignore[misc]  # transformers' classes are untyped
    """Keeps the logits of every step; where tokens are given, these are chosen whatever the logits say."""

    def __init__(self, forced: Tensor | None) -> None:
        self.steps: list[Tensor] = []
        self._forced = forced

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        self.steps.append(scores.clone())
        if self._forced is None:
            return scores
        chosen = self._forced[:, len(self.steps) - 1, None].to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def watched_run(
    model: Any,
    batch: dict[str, Tensor],
    *,
    pad: int,
    forced: Tensor | None = None,
    use_cache: bool = True,
    steps: int = STEPS,
) -> WatchedRun:
    """Generate greedily, under the guard if the model has one.

    Args:
        model: the model, wrapped or not.
        batch: `input_ids` and `attention_mask`.
        pad: id that finished rows are filled with.
        forced: tokens to choose, int64 `[rows, steps]`: two runs with the same ones differ in nothing but guidance.
        use_cache: whether keys and values are kept.
        steps: tokens to generate in every row.
    """
    kept = _Kept(forced)
    settings = {"max_new_tokens": steps, "min_new_tokens": steps, "do_sample": False, "use_cache": use_cache}
    named = {**batch, **settings, "pad_token_id": pad, "logits_processor": LogitsProcessorList([kept])}
    guard = getattr(model, "guard", None)
    if guard is None:
        tokens, decisions = model.generate(**named), ()
    else:
        with guard.collect() as reports:
            tokens = model.generate(**named)
        decisions = tuple(reports)
    return WatchedRun(tokens=tokens[:, batch["input_ids"].shape[1] :], logits=kept.steps, decisions=decisions)


@contextmanager
def passed_states(model: Any) -> Iterator[PassedStates]:
    """Keep what passes between the decoder blocks inside the block.

    It stands inside the blocks' own `forward` and not in hooks, so it sees what hooks have changed, in any order.
    """
    blocks = decoder_blocks(model)
    seen = PassedStates(places=[[] for _ in range(len(blocks) + 1)])
    handles: list[Any] = []
    replaced_forwards = {block: vars(block)["forward"] for block in blocks if "forward" in vars(block)}

    def watch(number: int, block: Any) -> None:
        original = block.forward

        def forward(*arguments: Any, **named: Any) -> Any:
            seen.places[number].append((arguments[0] if arguments else named["hidden_states"]).detach().clone())
            output = original(*arguments, **named)
            if number == len(blocks) - 1:
                seen.places[-1].append(_first(output).detach().clone())
                # It comes after every hook that is there by now, and sees what they made of the output.
                handles.append(block.register_forward_hook(replaced))
            return output

        block.forward = forward

    def replaced(_module: Any, _arguments: Any, output: Any) -> None:
        seen.places[-1][-1] = _first(output).detach().clone()

    try:
        for number, block in enumerate(blocks):
            watch(number, block)
        yield seen
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
            if block in replaced_forwards:
                block.forward = replaced_forwards[block]
        for handle in handles:
            handle.remove()


def _first(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


def place_name(number: int, count: int) -> str:
    """Return what a place between blocks is called."""
    return f"behind block {count - 2}" if number == count - 1 else f"in front of block {number}"


def differing(one: Tensor, other: Tensor) -> Tensor:
    """Return in which places the bits of two tensors differ, reduced over the last dimension."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return torch.ones(one.shape[:-1], dtype=torch.bool)
    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return (one.contiguous().view(bits) != other.contiguous().view(bits)).any(dim=-1).cpu()
