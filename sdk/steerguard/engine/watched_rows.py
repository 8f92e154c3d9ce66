"""The rows that one answer watch reads: scores, the first one that reached the threshold, and what it means for each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from steerguard.decision import Reading, Threshold
from steerguard.errors import GuidanceDidNotFireError
from steerguard.policy.rules import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.engine.outcome import RowVerdict
    from steerguard.guidance.answer_watch import AnswerWatch

UNREAD = -1


class WatchedRows:
    """State of one watch in one run; all of it on the device.

    Args:
        watch: the watch.
        prefilled: bool `[rows]`, rows whose prompt ends in a prefilled answer.
        copies: rows that share one fate.
    """

    def __init__(self, watch: AnswerWatch, prefilled: Tensor, *, copies: int) -> None:
        self.watch = watch
        self.decided = 0
        """How many reads there were."""
        parts = list(zip(watch.probe.blocks, watch.probe.over, strict=True))
        self._newest = {block: index for index, (block, over) in enumerate(parts) if over == "end"}
        self._prompt = {block: index for index, (block, over) in enumerate(parts) if over == "prompt_mean"}
        self._prefilled = prefilled
        self._copies = copies
        self._chosen = torch.zeros_like(prefilled)
        self._reached = torch.zeros_like(prefilled)
        self._best = torch.full(prefilled.shape, -torch.inf, device=prefilled.device)
        self._at = torch.full(prefilled.shape, UNREAD, device=prefilled.device)
        self._kept: Tensor | None = None
        self._kept_parts = 0
        self._score: Tensor | None = None
        self._earlier: list[Tensor] = []
        self._parts = 0

    @property
    def answer_blocks(self) -> tuple[int, ...]:
        """Decoder blocks that are read at the newest token."""
        return tuple(sorted(self._newest))

    @property
    def stopped(self) -> Tensor:
        """Bool `[rows]`: rows that are refused: what they reached refuses them, or cannot be read."""
        return self._reached & ~torch.isfinite(self._best) if self.watch.opens else self._reached

    @property
    def opened(self) -> Tensor:
        """Bool `[rows]`: rows for which the watch opens its entries."""
        return self._reached & torch.isfinite(self._best) if self.watch.opens else torch.zeros_like(self._reached)

    def reads_of(self, block: int) -> tuple[str, ...]:
        """Return what is read of one block: `end` for the newest token, `prompt_mean`."""
        return tuple(name for name, of in (("end", self._newest), ("prompt_mean", self._prompt)) if block in of)

    def choose(self, rows: Tensor) -> None:
        """Learn which rows are watched, bool `[rows]`."""
        self._chosen = rows

    def read_prompt(self, block: int, states: Tensor) -> None:
        """Keep what a part over the prompt mean adds to every score.

        Args:
            block: decoder block.
            states: float32 `[rows, width]`.
        """
        if block in self._prompt:
            part = self.watch.probe.partial(self._prompt[block], states)
            self._kept = part if self._kept is None else self._kept.to(part.device) + part
            self._kept_parts += 1

    def read(self, block: int, states: Tensor) -> None:
        """Add what the part of a block says of the newest token; arguments as of `read_prompt`."""
        if block in self._newest:
            part = self.watch.probe.partial(self._newest[block], states)
            self._score = part if self._score is None else self._score.to(part.device) + part
            self._parts += 1

    def decide(self, generated: int, over: Tensor) -> None:
        """Compare the score that was just read; what was reached once stays reached.

        Args:
            generated: how many generated tokens the model has read; 0 at the end of a prefilled answer.
            over: bool `[rows]`, rows that have ended.

        Raises:
            GuidanceDidNotFireError: a part was not read.
        """
        score, parts = self._score, self._parts + self._kept_parts
        self._score, self._parts = None, 0
        if score is None or parts != len(self.watch.probe.blocks):
            raise GuidanceDidNotFireError(
                "A watched answer was not read in all its parts.",
                expected=f"{len(self.watch.probe.blocks)} parts",
                found=f"{parts} parts",
                where=f"guidance entry `{self.watch.step}`, after {generated} generated tokens",
                next_step="Look for code that removes hooks or compiles decoder blocks, then unwrap and wrap again.",
            )
        if self._kept is not None:
            score = score + self._kept.to(score.device)
        score = score.to(self._best.device)
        live = self._chosen & ~over & ~self._reached
        if not generated:
            live = live & self._prefilled
        if self._copies > 1:
            highest = score.view(-1, self._copies).amax(dim=1, keepdim=True)
            score = highest.expand(-1, self._copies).reshape(-1)
        broken = live & ~torch.isfinite(score)
        lowest = self._lowest(torch.where(live, score, -torch.inf))
        reaches = live & (broken | (lowest >= self.watch.threshold))
        taken = reaches | (live & (lowest > self._best))
        self._best = torch.where(taken, torch.where(broken, score, lowest), self._best)
        self._at = torch.where(taken, generated, self._at)
        self._reached = self._reached | reaches
        self.decided += 1

    def _lowest(self, score: Tensor) -> Tensor:
        """Return the lowest of the last reads that must reach the threshold together; minus infinity before them."""
        wanted = self.watch.in_a_row
        if wanted == 1:
            return score
        window = [*self._earlier, score]
        self._earlier = window[-wanted + 1 :]
        return torch.stack(window).amin(dim=0) if len(window) == wanted else torch.full_like(score, -torch.inf)

    def outcome(self, verdicts: Sequence[RowVerdict], *, acts: bool) -> list[RowVerdict]:
        """Return the verdicts with the reading of each row, and refusals where they follow; waits for the device.

        Args:
            verdicts: so far, one for each row.
            acts: False where a refusal is intended and not applied.
        """
        columns = (self._best, self._at, self._reached)
        host = torch.stack([column.double() for column in columns]).tolist()
        return [
            self._row(verdict, score, int(at), reached=bool(reached), acts=acts)
            for verdict, score, at, reached in zip(verdicts, *host, strict=True)
        ]

    def _row(self, verdict: RowVerdict, score: float, at: int, *, reached: bool, acts: bool) -> RowVerdict:
        if at == UNREAD:
            return verdict
        finite = math.isfinite(score)
        bound = Threshold(rule=self.watch.step, bound="at_least", value=self.watch.threshold, fpr=self.watch.fpr)
        reading = Reading(source=self.watch.step, score=score if finite else None, thresholds=(bound,), token=at)
        read = replace(verdict, answer_readings=(*verdict.answer_readings, reading))
        if not reached or verdict.verdict.action == "refuse" or (finite and self.watch.opens):
            return read
        refusal = Verdict(
            rules=verdict.verdict.rules,
            action="refuse",
            use=(),
            cause="answer_reading" if finite else "non_finite",
        )
        return replace(read, verdict=refusal, applied="refuse" if acts else verdict.applied)
