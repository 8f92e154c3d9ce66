"""What the interventions of one request do, and where: in passes over prompt columns and in decode steps with a cache."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from steerguard.engine.operators import apply_operator, on_device
from steerguard.engine.positions import changes_decode, position_mask
from steerguard.engine.schedules import Parts, ending_vector, parts_of, position_numbers, steady_vector
from steerguard.guidance.intervention import ByPhase, ByStep, Constant, Operated, Phases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.guidance.intervention import FirstSteps, Intervention, Operator, PositionRule, Positions

NEGATIVE_ZERO = -0.0


class Additions:
    """Vectors and positions of one request; knows no gate but those that it is given.

    Args:
        prompt_mask: bool `[rows, prompt width]`, False at padding.
        ends: int64 `[rows]`, column of the end of the generation prompt.
        texts: bool `[rows, prompt width]`, False where an image, sound or video stands; None where there is none, or
            no intervention leaves them out.
    """

    def __init__(self, prompt_mask: Tensor, ends: Tensor, texts: Tensor | None = None) -> None:
        self._prompt_mask = prompt_mask
        self._ends = ends
        self._texts = texts
        self._parts: dict[Intervention, Parts] = {}
        self._masks: dict[tuple[Positions | FirstSteps, int, torch.device], Tensor] = {}
        self._numbers: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}
        self._stepped: dict[Intervention, Tensor] = {}
        self._vectors: dict[tuple[Intervention, torch.device, torch.dtype], Tensor] = {}
        self._operators: dict[tuple[Intervention, torch.device], Operator] = {}

    def in_pass(self, intervention: Intervention, hidden: Tensor, *, first: int = 0) -> tuple[Tensor, Tensor]:
        """Return where a pass over columns changes something, and what becomes of the hidden states there.

        Args:
            intervention: one of the request.
            hidden: `[rows, columns, width]`.
            first: absolute column of the first one; others than 0 only within the prompt.

        Returns:
            bool `[rows, columns]`, and hidden states like `hidden`, which hold only where the mask is true.
        """
        places, changed = self._changed(intervention, hidden, first)
        if self._texts is None or intervention.modality_tokens == "include":
            return places, changed
        shown = self._texts[:, first : first + hidden.shape[1]].to(hidden.device)
        generated = hidden.shape[1] - shown.shape[1]
        return places & torch.nn.functional.pad(shown, (0, generated), value=True), changed

    def _changed(self, intervention: Intervention, hidden: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Return what `in_pass` does, at columns of images and sounds too."""
        schedule, device = intervention.schedule, hidden.device
        here = slice(first, first + hidden.shape[1])
        width = max(here.stop, self._prompt_mask.shape[1])
        if isinstance(schedule, Constant):
            mask = self._where(schedule.positions, width, device)
            return mask[:, here], hidden + self._converted(intervention, schedule.vector, hidden)
        if isinstance(schedule, Operated):
            mask = self._where(schedule.positions, width, device)
            return mask[:, here], apply_operator(self.operator(intervention, schedule, device), hidden)
        numbers, present = (found[:, here] for found in self._positions(width, device))
        active, added = self._table(intervention, schedule, hidden).at(numbers)
        return present & active, hidden + added

    def operator(self, intervention: Intervention, schedule: Operated, device: torch.device) -> Operator:
        """Return the operator of an intervention with its tensors on a device; copied once for the request."""
        key = (intervention, device)
        if key not in self._operators:
            self._operators[key] = on_device(schedule.operator, device)
        return self._operators[key]

    def passes_left(self, intervention: Intervention, gate: Tensor) -> int:
        """Return how many decode passes have a step of their own in some open row; waits for the device.

        Args:
            intervention: one of the request.
            gate: bool `[rows]`, its open rows.
        """
        ending = ending_vector(intervention.schedule)
        if ending is not None:
            return ending[1] if bool(gate.any()) else 0
        if not isinstance(intervention.schedule, ByStep):
            return 0
        prefilled = self._fed_back(1, gate.device)[:, 0] - 1
        left = torch.where(gate, len(intervention.schedule.steps) - prefilled, 0)
        return int(left.clamp(min=0).max())

    def steady(self, gates: Mapping[Intervention, Tensor], like: Tensor) -> Tensor:
        """Return what one block adds in every decode step, `[rows, 1, width]`; exactly negative zero in closed rows.

        Args:
            gates: bool `[rows]` by intervention of the block.
            like: tells device, type and width: `[..., width]`.
        """
        return self._sum(gates, like, step=None)

    def _sum(self, gates: Mapping[Intervention, Tensor], like: Tensor, *, step: int | None) -> Tensor:
        """Return what schedules other than `ByStep` add in one decode step; None for a step behind all that end."""
        shape = (self._prompt_mask.shape[0], 1, like.shape[-1])
        total = torch.full(shape, NEGATIVE_ZERO, device=like.device, dtype=like.dtype)
        for intervention, gate in gates.items():
            vector, ending = steady_vector(intervention.schedule), ending_vector(intervention.schedule)
            if ending is not None and step is not None and step < ending[1]:
                vector = ending[0]
            if vector is not None:
                added = total + self._converted(intervention, vector, like)
                total = torch.where(gate[:, None, None], added, total)
        return total

    def _stretches(self, gates: Mapping[Intervention, Tensor], like: Tensor, passes: int) -> list[Tensor]:
        """Return what is added in each of the first decode steps; between two ends every step is the same tensor."""
        ends = {ending[1] for ending in (ending_vector(item.schedule) for item in gates) if ending is not None}
        cuts = [0, *sorted(end for end in ends if end < passes), passes]
        return [
            delta for begin, end in pairwise(cuts) for delta in [self._sum(gates, like, step=begin)] * (end - begin)
        ]

    def stepped(self, gates: Mapping[Intervention, Tensor], like: Tensor, *, passes: int) -> Sequence[Tensor]:
        """Return what one block adds in each of the first decode steps, each like `steady`.

        Args:
            gates: bool `[rows]` by intervention of the block.
            like: tells device, type and width: `[..., width]`.
            passes: how many decode steps, at least 1.

        Returns:
            Where some intervention is `ByStep`, one view per step of a tensor that holds them all; nothing else of
            that size is alive here, except while the second and later interventions of a block are added. Otherwise
            one tensor for each stretch of steps that are alike.
        """
        if not any(isinstance(item.schedule, ByStep) for item in gates):
            return self._stretches(gates, like, passes)
        numbers, total = self._fed_back(passes, like.device), None
        for intervention, gate in gates.items():
            if isinstance(intervention.schedule, ByStep):
                added = self._step_by_step(intervention, intervention.schedule, gate, numbers, like)
            else:
                alike = self._stretches({intervention: gate}, like, passes)
                added = alike[0].expand(passes, -1, -1, -1) if alike[0] is alike[-1] else torch.stack(alike)
            # Adding negative zero changes no bit, so closed rows need no selection here.
            total = added.contiguous() if total is None else total.add_(added)
        return () if total is None else total.unbind(0)

    def _step_by_step(
        self, intervention: Intervention, schedule: ByStep, gate: Tensor, numbers: Tensor, like: Tensor
    ) -> Tensor:
        """Return `[passes, rows, 1, width]` in one gather: closed rows point at a row of negative zeros."""
        parts = self._table(intervention, schedule, like)
        index = parts.index(numbers)
        self._stepped[intervention] = parts.active[index]
        chosen = torch.where(gate[:, None], index, parts.top + 1)
        silent = torch.where(parts.active[:, None], parts.table, NEGATIVE_ZERO)
        rows, passes = chosen.shape
        return silent.index_select(0, chosen.t().reshape(-1)).view(passes, rows, 1, -1)

    def changed_in_decode(self, intervention: Intervention, *, passes: int) -> list[int]:
        """Return per row how many positions that many decode steps changed, were its gate open; waits for the device."""
        rows = self._prompt_mask.shape[0]
        if isinstance(intervention.schedule, ByStep):
            active = self._stepped.get(intervention)
            return [0] * rows if active is None else active[:, :passes].sum(dim=1).tolist()
        ending = ending_vector(intervention.schedule)
        if ending is not None:
            return [min(passes, ending[1])] * rows
        if isinstance(intervention.schedule, Operated):
            return [passes if changes_decode(intervention.schedule.positions) else 0] * rows
        return [passes if steady_vector(intervention.schedule) is not None else 0] * rows

    def forget_prompt(self) -> None:
        """Let go of what only passes over all columns need."""
        self._parts.clear()
        self._masks.clear()
        self._numbers.clear()
        self._vectors.clear()
        self._operators.clear()

    def _converted(self, intervention: Intervention, vector: Tensor, like: Tensor) -> Tensor:
        """Return the one vector of an intervention with the device and type of `like`; copied once for the request."""
        key = (intervention, like.device, like.dtype)
        if key not in self._vectors:
            self._vectors[key] = vector.to(device=like.device, dtype=like.dtype)
        return self._vectors[key]

    def _table(self, intervention: Intervention, schedule: ByPhase | ByStep, like: Tensor) -> Parts:
        if intervention not in self._parts:
            self._parts[intervention] = parts_of(schedule, like=like)
        return self._parts[intervention]

    def _where(self, positions: PositionRule, width: int, device: torch.device) -> Tensor:
        if isinstance(positions, Phases):
            return self._phases(positions, width, device)
        key = (positions, width, device)
        if key not in self._masks:
            # Without a cache every pass is one column wider, and the narrower ones are over.
            self._masks = {old: mask for old, mask in self._masks.items() if old[1] == width}
            prompt_mask, ends = self._prompt_mask.to(device), self._ends.to(device)
            self._masks[key] = position_mask(positions, prompt_mask=prompt_mask, ends=ends, width=width)
        return self._masks[key]

    def _phases(self, phases: Phases, width: int, device: torch.device) -> Tensor:
        numbers, present = self._positions(width, device)
        wanted = torch.tensor([phases.prompt, phases.last, phases.decode], device=device)
        there = present & wanted[numbers.clamp(-1, 1) + 1]
        return there if phases.steps is None else there & (numbers <= phases.steps)

    def _positions(self, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (width, device)
        if key not in self._numbers:
            self._numbers = {old: found for old, found in self._numbers.items() if old[0] == width}
            prompt_mask, ends = self._prompt_mask.to(device), self._ends.to(device)
            self._numbers[key] = position_numbers(prompt_mask=prompt_mask, ends=ends, width=width)
        return self._numbers[key]

    def _fed_back(self, passes: int, device: torch.device) -> Tensor:
        """Return the position numbers of the first generated columns, int64 `[rows, passes]`."""
        width = self._prompt_mask.shape[1]
        return self._positions(width + passes, device)[0][:, width:]
