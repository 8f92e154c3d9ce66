"""How scoring reads a row: an answer that is closed at its end is still an answer, and its tokens count as generated."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch

from steerguard.guidance.intervention import ByPhase, ByStep, FirstSteps, Phases
from steerguard.models.chat import GenerationPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.engine.program import Program
    from steerguard.guidance.intervention import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPrompt(GenerationPrompt):
    """A generation prompt whose answer may be complete: one turn end at the very end of a row belongs to the answer."""

    @classmethod
    def from_prompt(cls, prompt: GenerationPrompt) -> ScoredPrompt:
        """Return the same prompt, for scoring."""
        return cls(**{field.name: getattr(prompt, field.name) for field in fields(prompt)})

    @property
    def closings(self) -> tuple[tuple[int, ...], ...]:
        """What may close the answer at the end of a row: a turn end, or all that the template writes behind a turn."""
        width = len(self.header_ids)
        between = {tail[:-width] for tail in self.tails if tail[-width:] == self.header_ids and len(tail) > width}
        return tuple(sorted(between.union(self.turn_end_ids), key=len, reverse=True))

    def ends(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[int | None, ...]:
        """Find the end of the generation prompt in each row, as `GenerationPrompt.ends` does, also of closed answers."""
        # Named: a zero-argument super() does not work in a dataclass with slots.
        found = GenerationPrompt.ends(self, input_ids, attention_mask)
        if None not in found:
            return found
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        opened = mask & ~self._closing_columns(input_ids, mask)
        again = GenerationPrompt.ends(self, input_ids, opened)
        return tuple(other if end is None else end for end, other in zip(found, again, strict=True))

    def _closing_columns(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return bool `[rows, columns]`: the turn end that a row ends with."""
        closing, closings = torch.zeros_like(mask), self.closings
        rows = zip(input_ids.tolist(), mask.tolist(), strict=True)
        for row, (ids, counts) in enumerate(rows):
            columns = [column for column, counted in enumerate(counts) if counted]
            last = tuple(ids[column] for column in columns)
            end = next((marks for marks in closings if last[-len(marks) :] == marks), ())
            if end:
                closing[row, columns[-len(end) :]] = True
        return closing


def scored_program(program: Program) -> Program:
    """Return the program with every rule of positions said by phase: there, tokens of a given answer are generated."""
    found = {item: replace(item, schedule=_by_phase(item.schedule)) for item in program.interventions}
    blocks = {
        block: replace(
            at_block,
            interventions=tuple(found[item] for item in at_block.interventions),
            before=tuple(found[item] for item in at_block.before),
        )
        for block, at_block in program.blocks.items()
    }
    return replace(program, interventions=tuple(found.values()), blocks=blocks)


def _by_phase(schedule: Schedule) -> Schedule:
    if isinstance(schedule, (ByPhase, ByStep)) or isinstance(schedule.positions, Phases):
        return schedule
    rule = schedule.positions
    if isinstance(rule, FirstSteps):
        return replace(schedule, positions=Phases(prompt=False, last=False, decode=True, steps=rule.steps))
    phases = Phases(prompt=rule in {"all", "prefill"}, last=rule != "decode", decode=rule != "prefill")
    return replace(schedule, positions=phases)
