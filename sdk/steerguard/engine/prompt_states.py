"""What a prefill shows of each prompt at one place, gathered over all its calls: the state at the end, and the mean.

A prefill in chunks shows a prompt piece by piece. Where a state lies is told by absolute columns, never by the width of
a call: a prefill may end in a chunk of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerguard.engine.hooks import block_of
from steerguard.errors import GuidanceDidNotFireError
from steerguard.models.prompt_mean import prompt_sum

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch import Tensor

    from steerguard.engine.hooks import Place


class PromptStates:
    """Running end states and prompt sums of one request, by place.

    Args:
        ends: int64 `[rows]`, column of the end of the generation prompt.
        in_mean: bool `[rows, prompt width]`, the columns that the prompt mean is over.
    """

    def __init__(self, ends: Tensor, in_mean: Tensor) -> None:
        self._ends = ends
        self._in_mean = in_mean
        self._end_states: dict[Hashable, Tensor] = {}
        self._sums: dict[Hashable, Tensor] = {}
        self.totals: dict[Hashable, Tensor] = {}
        """float32 `[rows, width]` by place: the sum that a prompt mean was made of."""

    def at_ends(self, place: Hashable, hidden: Tensor, first: int) -> Tensor:
        """Return float32 `[rows, width]` at the end of each row's generation prompt, as far as it was shown.

        Args:
            place: where the states come from; asked again for the same columns it gives the same.
            hidden: `[rows, columns, width]`.
            first: absolute column of the first one.
        """
        columns = hidden.shape[1]
        local = self._ends.to(hidden.device) - first
        here = local.clamp(0, columns - 1)
        states = hidden[torch.arange(hidden.shape[0], device=hidden.device), here].float()
        earlier = self._end_states.get(place)
        if earlier is not None:
            states = torch.where((local == here)[:, None], states, earlier)
        if first + columns < self._in_mean.shape[1]:
            self._end_states[place] = states
        return states

    def mean(self, place: Hashable, hidden: Tensor, first: int) -> Tensor | None:
        """Return float32 `[rows, width]`, the prompt mean, once the whole prompt was shown; NaN where there is none.

        Args:
            place: where the states come from; asked once for each call.
            hidden: `[rows, columns, width]`.
            first: absolute column of the first one.
        """
        stop, width = first + hidden.shape[1], self._in_mean.shape[1]
        mask = self._in_mean.to(hidden.device)
        shown = prompt_sum(hidden, mask[:, first:stop])
        total = self._sums.pop(place) + shown if first else shown
        if stop < width:
            self._sums[place] = total
            return None
        self.totals[place] = total
        return total / mask.sum(dim=1, keepdim=True)

    def seed(self, sums: Mapping[Hashable, Tensor]) -> None:
        """Go on from sums over columns that lie in a cache; like `totals` of the request that read them."""
        self._sums.update(sums)

    def forget(self) -> None:
        """Let go of everything gathered but the totals."""
        self._end_states.clear()
        self._sums.clear()


def unexpected_width(place: Place, expected: int, found: int) -> GuidanceDidNotFireError:
    """Return the error for a pass whose columns the request cannot place."""
    return GuidanceDidNotFireError(
        "A forward pass had another number of positions than the request.",
        expected=f"{expected} positions",
        found=f"{found} positions",
        where=f"decoder block {block_of(place)}",
        next_step="Generate without changing the batch or the prompt between passes.",
    )


def incomplete(missing: Sequence[str]) -> GuidanceDidNotFireError:
    """Return the error for a prefill that did not pass every place that it must."""
    return GuidanceDidNotFireError(
        "The prefill did not pass every hook of the plan.",
        expected="each detector reads all its parts, and each intervention takes its gate, once",
        found=f"incomplete: {', '.join(missing)}",
        where="prefill",
        next_step="Look for code that removes hooks or compiles decoder blocks, then unwrap and wrap again.",
    )
