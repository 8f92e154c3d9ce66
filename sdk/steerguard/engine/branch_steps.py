"""Decode steps of rows that branch off a guided batch: steered as their row is, read where a cost model reads, counted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from steerguard.engine.active import activity
from steerguard.engine.answer_states import NewestStates
from steerguard.engine.hooks import named
from steerguard.engine.relatives import branch_of
from steerguard.errors import GuidanceDidNotFireError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

    from torch import Tensor

    from steerguard.engine.loop import Engine
    from steerguard.engine.loop_settings import LoopSettings
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.intervention import Intervention


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefilledRow:
    """One row of a batch whose prompt has gone through the model, and how its tokens are drawn."""

    model: Any
    engine: Engine
    request: GuidedRequest
    """Of the batch, its verdicts taken."""
    row: int
    opened: Collection[Intervention]
    """Interventions whose gate is open for the row."""
    settings: LoopSettings
    processors: Callable[[Tensor, Tensor], Tensor]
    """As prepared by `generate`, without the guard's own."""
    criteria: Callable[[Tensor, Any], Tensor]
    """As prepared by `generate`, without the guard's own."""
    temperature: float
    """At which candidates are drawn where the call itself is greedy."""
    blocks: tuple[int, ...]
    """Blocks whose states are read; empty for none."""
    cache: Any
    """Its states, with one row; whoever draws changes them in place."""
    cache_name: str
    """What the model's class calls its cache."""
    prompt: str
    text: Callable[[Sequence[int]], str]


class BranchSteps:
    """Decode steps of copies of one row; hooks are there for as long as the block runs.

    Args:
        row: the row.
        rows: how many copies.
        fed: generated tokens that went through the model before.
        most: how many steps there can be at most.
    """

    def __init__(self, row: PrefilledRow, *, rows: int, fed: int, most: int) -> None:
        self._row = row
        self._fed = fed
        self._passes = 0
        self._stack = ExitStack()
        self._branch = branch_of(row.request, row.row, rows, opened=row.opened, passes=fed + most)
        self._states = NewestStates(row.blocks, self._branch) if row.blocks else None

    def __enter__(self) -> Self:
        hooks, branch = self._row.engine.hooks, self._branch
        with ExitStack() as stack:
            stack.enter_context(self._row.model._optimize_model_for_decode())  # noqa: SLF001 - as the library's loop does
            # Read before anything is changed at the same block.
            if self._states is not None:
                stack.callback(hooks.install(self._states.hooks()).remove)
            stack.callback(hooks.install(branch.decode_hooks()).remove)
            for place in branch.decode_passes:
                branch.decode_passes[place] = self._fed
            stack.enter_context(activity(branch))
            branch.in_callbacks = True
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None:
            self._require_passes()

    def run(self, ids: Tensor, inputs: dict[str, Any]) -> tuple[dict[str, Any], Tensor, Tensor | None]:
        """Run the last token of each row.

        Args:
            ids: int64 `[rows, columns]`; all but the last column went through the model.
            inputs: what the model is given beside them, one column less.

        Returns:
            The inputs one column wider, float32 logits `[rows, vocabulary]` of what follows, and the float32 states
            `[rows, parts, width]` of the tokens that were run.
        """
        model, branch = self._row.model, self._branch
        wider = model._update_model_kwargs_for_generation({}, dict(inputs))  # noqa: SLF001 - as the library's loop does
        prepared = model.prepare_inputs_for_generation(
            ids, next_sequence_length=1, **{**wider, self._row.cache_name: self._row.cache}
        )
        branch.in_callbacks = False
        try:
            output = model(**prepared, return_dict=True)
        finally:
            branch.in_callbacks = True
        self._passes += 1
        logits = output.logits[:, -1].to(copy=True, dtype=torch.float32, device=ids.device)
        return wider, logits, None if self._states is None else self._states.take()

    def _require_passes(self) -> None:
        """Prove that every step went through the hooks of what is steered."""
        wanted = self._fed + self._passes
        for place, found in self._branch.decode_passes.items():
            if found != wanted:
                raise GuidanceDidNotFireError(
                    "Candidates were not steered in every decode step.",
                    expected=f"{wanted} steps",
                    found=f"{found} steps",
                    where=f"candidates of a search, {named(place)}",
                    next_step="Look for code that removes hooks or compiles decoder blocks, then unwrap and wrap again.",
                )
