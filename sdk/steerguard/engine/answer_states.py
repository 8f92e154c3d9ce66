"""The states of an answer's own tokens, summed while it is written: what a cost model on the residual stream reads.

Of an answer every token counts that went through the model while the answer went on: all but its last one.
Sums are float32 and stay on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steerguard.critics.cost import CostInputs
from steerguard.engine.active import ACTIVE
from steerguard.engine.hooks import named
from steerguard.errors import GuidanceDidNotFireError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from steerguard.engine.hooks import Hook, Place
    from steerguard.engine.request import GuidedRequest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnswerSums:
    """What was read of some answers so far, one row each."""

    sums: Tensor
    """float32 `[rows, parts, width]`."""
    newest: Tensor
    """float32 `[rows, parts, width]`: the last state that counted."""
    read: Tensor
    """int64 `[rows]`: how many counted."""

    @classmethod
    def nothing(cls, rows: int, parts: int, width: int, device: torch.device) -> AnswerSums:
        """Return the sums of answers that have not begun."""
        empty = torch.zeros(rows, parts, width, device=device)
        return cls(sums=empty, newest=empty, read=torch.zeros(rows, dtype=torch.int64, device=device))

    @property
    def bytes(self) -> int:
        """What they take, in bytes."""
        return sum(part.numel() * part.element_size() for part in (self.sums, self.newest, self.read))

    def plus(self, states: Tensor, counts: Tensor) -> AnswerSums:
        """Return the sums with one more token of each row.

        Args:
            states: float32 `[rows, parts, width]`.
            counts: bool `[rows]`, the rows in which it counts.
        """
        chosen = counts[:, None, None]
        return AnswerSums(
            # Selected and not multiplied: what does not count may hold anything.
            sums=torch.where(chosen, self.sums + states, self.sums),
            newest=torch.where(chosen, states, self.newest),
            read=self.read + counts,
        )

    def rows(self, rows: Tensor) -> AnswerSums:
        """Return the sums of some rows, int64 `[rows]`, in the order given."""
        rows = rows.to(self.read.device)
        return AnswerSums(sums=self.sums[rows], newest=self.newest[rows], read=self.read[rows])

    def inputs(self) -> CostInputs:
        """Return what a cost model is given; the mean of nothing is zero, and `read` tells."""
        means = self.sums / self.read.clamp(min=1)[:, None, None]
        return CostInputs(means=means, newest=self.newest, read=self.read)


class NewestStates:
    """Hooks that take the state of the newest column behind some blocks.

    Args:
        blocks: 0-based decoder blocks, at least one.
        request: the request that they act for.
    """

    def __init__(self, blocks: Sequence[int], request: GuidedRequest) -> None:
        self._blocks = tuple(blocks)
        self._request = request
        self._taken: dict[int, Tensor] = {}

    def hooks(self) -> dict[Place, Hook]:
        """Return the hook of each block."""
        return {block: self._hook(block) for block in set(self._blocks)}

    def take(self) -> Tensor:
        """Return what the last pass showed, float32 `[rows, parts, width]`, and forget it.

        Raises:
            GuidanceDidNotFireError: the pass did not go through a block.
        """
        missing = [block for block in self._blocks if block not in self._taken]
        if missing:
            raise GuidanceDidNotFireError(
                "A block that a cost model reads was not passed.",
                expected="every decode step passes the blocks of the cost model",
                found=f"no state of {named(missing[0])}",
                where="decode step",
                next_step="Look for code that removes hooks or compiles decoder blocks, then unwrap and wrap again.",
            )
        device = self._taken[self._blocks[0]].device
        states = torch.stack([self._taken[block].to(device) for block in self._blocks], dim=1)
        self._taken.clear()
        return states

    def _hook(self, block: int) -> Hook:
        request, current, taken = self._request, ACTIVE.get, self._taken

        def act(_module: nn.Module, _arguments: Any, output: Any) -> None:
            if current() is request:
                hidden = output[0] if isinstance(output, tuple) else output
                taken[block] = hidden[:, -1].float()

        return act
