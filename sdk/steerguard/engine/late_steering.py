"""Guidance entries that open in the middle of an answer: what they add to each later token of the rows concerned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerguard.decision import Dose
from steerguard.engine.additions import NEGATIVE_ZERO
from steerguard.engine.schedules import steady_vector
from steerguard.errors import GuidanceDidNotFireError, UnsupportedPlanError
from steerguard.guidance.intervention import VerdictGate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.intervention import Intervention

NEVER = -1


def openable(item: Intervention) -> Tensor:
    """Return the vector that an intervention adds to every generated token alike.

    Raises:
        UnsupportedPlanError: it does something else, or its gate is read at the prompt.
    """
    vector = steady_vector(item.schedule)
    if vector is None or item.point != "resid_post" or not isinstance(item.gate, VerdictGate):
        raise UnsupportedPlanError(
            f"Guidance entry `{item.step}` cannot be opened while an answer is written.",
            expected="one vector for all generated tokens, added to the outputs of blocks, with the verdict as its gate",
            found="another schedule, operator, point or gate",
            where=item.source,
            next_step="Open an entry with a constant or by-phase schedule whose positions include generated tokens.",
        )
    return vector


class LateSteering:
    """What the entries that watches may open add, in one run of the loop.

    Args:
        request: the request.
        opens: for each watch, the entries that it opens.
    """

    def __init__(self, request: GuidedRequest, opens: Sequence[tuple[str, ...]]) -> None:
        self._request = request
        self._opens = list(opens)
        names = {name for entries in opens for name in entries}
        self._items = [item for item in request.program.interventions if item.step in names]
        mask = request.prompt_mask
        self._since = {item: torch.full((request.rows,), NEVER, device=mask.device) for item in self._items}
        self._like: dict[int, Tensor] = {}
        self._vectors: dict[Intervention, Tensor] = {}
        self._deltas: dict[int, Tensor] = {}
        self._passes = dict.fromkeys(self.blocks, 0)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Decoder blocks whose output may be changed."""
        return tuple(sorted({item.block for item in self._items}))

    @property
    def rows(self) -> Tensor | None:
        """Bool `[rows]`: rows for which an entry was opened late; None where none can be."""
        if not self._since:
            return None
        return torch.stack([since != NEVER for since in self._since.values()]).any(dim=0)

    def learn(self, block: int, hidden: Tensor) -> None:
        """Learn device, type and width of the hidden states of a block, `[..., width]`; its vectors are copied there.

        A decode step copies nothing from the host.
        """
        if block not in self._passes or block in self._like:
            return
        self._like[block] = hidden.new_empty((0, hidden.shape[-1]))
        for item in self._items:
            if item.block == block:
                self._vectors[item] = openable(item).to(device=hidden.device, dtype=hidden.dtype)

    def open(self, opened: Sequence[Tensor], generated: int) -> None:
        """Open entries from the next token on; in rows that the verdict opened already they act as they do.

        Args:
            opened: for each watch, bool `[rows]`: where it opens its entries.
            generated: how many generated tokens have gone through the model.
        """
        for item in self._items:
            rows = torch.zeros_like(self._request.gates[item])
            for entries, mask in zip(self._opens, opened, strict=True):
                if item.step in entries:
                    rows = rows | mask.to(rows.device)
            rows = rows & ~self._request.gates[item]
            since = self._since[item]
            self._since[item] = torch.where(rows.to(since.device) & (since == NEVER), generated, since)
        for block in self.blocks:
            self._deltas[block] = self._delta(block)

    def at_block(self, block: int, hidden: Tensor) -> Tensor | None:
        """Return what a decode step goes on with behind a block, `[rows, 1, width]`; None leaves it as it is."""
        if block not in self._passes:
            return None
        self._passes[block] += 1
        delta = self._deltas.get(block)
        return None if delta is None else hidden + delta

    def doses(self, doses: Sequence[tuple[Dose, ...]], fed_back: int) -> tuple[tuple[Dose, ...], ...]:
        """Return the doses with those of the entries opened late, in the order of the plan; waits for the device.

        Args:
            doses: of the entries that the verdicts opened, by row.
            fed_back: generated tokens of each row that went through the model.

        Raises:
            GuidanceDidNotFireError: a block was not passed once by every generated token.
        """
        for block, passes in self._passes.items():
            if passes != fed_back:
                raise GuidanceDidNotFireError(
                    "Late steering passed another number of tokens than the loop.",
                    expected=f"{fed_back} tokens",
                    found=f"{passes} tokens",
                    where=f"decoder block {block}",
                    next_step="Look for code that removes hooks or compiles decoder blocks, then wrap again.",
                )
        since = {item: rows.tolist() for item, rows in self._since.items()}
        return tuple(self._row(row, found, since, fed_back) for row, found in enumerate(doses))

    def _row(
        self, row: int, found: tuple[Dose, ...], since: dict[Intervention, list[int]], fed_back: int
    ) -> tuple[Dose, ...]:
        by_step = {dose.step: dose for dose in found}
        for step in self._request.program.plan.steps:
            items = [item for item in self._items if item.step == step.id and since[item][row] != NEVER]
            if items:
                by_step[step.id] = Dose(
                    step=step.id,
                    method=step.method,
                    open_blocks=tuple(sorted({item.block for item in items})),
                    coefficient=step.coefficient,
                    positions=sum(self._passes[item.block] - since[item][row] for item in items),
                    expected_positions=sum(fed_back - since[item][row] for item in items),
                )
        return tuple(by_step[step.id] for step in self._request.program.plan.steps if step.id in by_step)

    def _delta(self, block: int) -> Tensor:
        like = self._like[block]
        shape = (self._request.rows, 1, like.shape[-1])
        total = torch.full(shape, NEGATIVE_ZERO, device=like.device, dtype=like.dtype)
        for item in self._items:
            if item.block == block:
                rows = (self._since[item] != NEVER).to(like.device)[:, None, None]
                total = torch.where(rows, total + self._vectors[item], total)
        return total
