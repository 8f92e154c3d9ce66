"""What a schedule does at which position; on tensors and, independently, on the host.

A position is told from its number: 0 at the end of the generation prompt, -1, -2, ... before it, 1, 2, ... behind it,
padding not counted. Token t of the answer, prefilled or generated, has the number t + 1 in every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerguard.engine.positions import answer_columns, changes_decode, expected_in_rule, stops_early
from steerguard.guidance.intervention import ByPhase, ByStep, Constant, FirstSteps, Operated, Phases

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.guidance.intervention import Schedule


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The vectors of a schedule in one table: prompt, last prompt token, answer tokens, nothing."""

    table: Tensor
    """`[parts, width]`; zeros where nothing is added."""
    active: Tensor
    """bool `[parts]`."""
    top: int
    """Position numbers above this one count as this one."""

    def at(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return where something is added, bool, and what, one vector for each position number."""
        index = self.index(numbers)
        return self.active[index], self.table[index]

    def index(self, numbers: Tensor) -> Tensor:
        """Return the row of the table for each position number."""
        return numbers.clamp(-1, self.top) + 1


def parts_of(schedule: ByPhase | ByStep, *, like: Tensor) -> Parts:
    """Return the table of a schedule, with the device and type of `like` (`[..., width]`)."""
    answer = (schedule.decode,) if isinstance(schedule, ByPhase) else (*schedule.steps, None)
    parts = (schedule.prompt, schedule.last, *answer)
    # Vectors lie on the CPU, also where the app has set another default device.
    nothing = torch.zeros(like.shape[-1], device="cpu")
    table = torch.stack([nothing if part is None else part for part in parts])
    active = torch.tensor([part is not None for part in parts], device=like.device)
    return Parts(table=table.to(device=like.device, dtype=like.dtype), active=active, top=len(answer))


def position_numbers(*, prompt_mask: Tensor, ends: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return what position each column of a forward pass over columns 0 to `width` is.

    Args:
        prompt_mask: bool `[rows, prompt width]`, False at padding.
        ends: int64 `[rows]`, column of the end of the generation prompt.
        width: number of columns, at least the prompt width.

    Returns:
        The numbers, int64 `[rows, width]`, and where there is a token at all, bool `[rows, width]`.
    """
    rows, prompt_width = prompt_mask.shape
    present = torch.ones((rows, width), dtype=torch.bool, device=prompt_mask.device)
    present[:, :prompt_width] = prompt_mask
    counted = present.long().cumsum(dim=1)
    return counted - counted.gather(1, ends[:, None]), present


def steady_vector(schedule: Schedule) -> Tensor | None:
    """Return what every generated token gets alike; None when nothing is added to them, or not the same to all."""
    if isinstance(schedule, Constant):
        lasts = changes_decode(schedule.positions) and not stops_early(schedule.positions)
        return schedule.vector if lasts else None
    return schedule.decode if isinstance(schedule, ByPhase) else None


def ending_vector(schedule: Schedule) -> tuple[Tensor, int] | None:
    """Return the one vector that only the first generated tokens get, and how many they are; None for other schedules."""
    if not isinstance(schedule, Constant) or not isinstance(schedule.positions, FirstSteps):
        return None
    return schedule.vector, schedule.positions.steps


def changes_answer(schedule: Schedule) -> bool:
    """Return whether any generated token is changed when it is fed back."""
    if isinstance(schedule, (Constant, Operated)):
        return changes_decode(schedule.positions)
    return bool(schedule.steps) if isinstance(schedule, ByStep) else schedule.decode is not None


def first_changed(schedule: Schedule, *, attention: list[int], end: int) -> int:
    """Return the first prompt column of a row that an open gate would change; the prompt's width when there is none.

    Args:
        schedule: the schedule.
        attention: 1 or 0 per prompt column.
        end: column of the end of the generation prompt.
    """
    width, begin = len(attention), attention.index(1)
    if isinstance(schedule, (ByPhase, ByStep)):
        prompt, last = schedule.prompt is not None, schedule.last is not None
    elif isinstance(schedule.positions, Phases):
        prompt, last = schedule.positions.prompt, schedule.positions.last
    elif isinstance(schedule.positions, FirstSteps):
        return width
    else:
        return {"decode": width, "last_prompt_token_and_decode": end}.get(schedule.positions, begin)
    if prompt:
        return begin
    behind = end + 1 if changes_answer(schedule) else width
    return end if last else behind


def expected_positions(
    schedule: Schedule, *, attention: list[int], end: int, fed_back: int, changeable: list[int] | None = None
) -> int:
    """Return how many positions of one open row must have been changed, from the returned sequence alone.

    Args:
        schedule: the schedule.
        attention: 1 or 0 per prompt column.
        end: column of the end of the generation prompt.
        fed_back: generated tokens that went through the model, padding of finished rows included.
        changeable: 1 or 0 per prompt column, 0 at padding and where nothing may be changed; None for `attention`.
    """
    spared = attention if changeable is None else changeable
    if isinstance(schedule, (Constant, Operated)):
        return expected_in_rule(schedule.positions, attention=attention, end=end, fed_back=fed_back, changeable=spared)
    answer = answer_columns(attention, end=end, fed_back=fed_back, changeable=spared)
    if isinstance(schedule, ByPhase):
        in_answer = 0 if schedule.decode is None else sum(answer)
    else:
        in_answer = sum(free for step, free in zip(schedule.steps, answer, strict=False) if step is not None)
    before = 0 if schedule.prompt is None else sum(spared[:end])
    return before + (0 if schedule.last is None else spared[end]) + in_answer
