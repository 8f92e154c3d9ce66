"""Reads at generated tokens: what a rolling guard sees of an answer while it is written, and what follows from it.

Invariants:
- Everything is decided on the device, row by row; no decode step waits for it. What was decided once stays decided.
- A row whose score never reaches its threshold keeps every bit: a read changes nothing, and where another row of the
  batch is steered late, negative zero is added to it, which changes no IEEE 754 value.
- A row that has ended or is refused is read no more, so its fate does not depend on how long its neighbours go on.
- With beams a prompt has one fate: the highest score of its beams counts, kept or not, until its own search has ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from steerguard.engine.active import ACTIVE
from steerguard.engine.declared import check_watches
from steerguard.engine.late_steering import LateSteering, openable
from steerguard.engine.prompt_states import PromptStates, unexpected_width
from steerguard.engine.watched_rows import WatchedRows
from steerguard.errors import GuidanceDidNotFireError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from steerguard.decision import Dose
    from steerguard.engine.hooks import BlockHooks, Hook, InstalledHooks, Place
    from steerguard.engine.outcome import RowVerdict
    from steerguard.engine.program import Program
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.answer_watch import AnswerWatch


def watched_program(program: Program, watches: tuple[AnswerWatch, ...]) -> Program:
    """Return a program that also watches answers.

    Raises:
        UnsupportedPlanError: an entry reads answers otherwise than its step declared, or a watch opens an entry that
            cannot be opened while an answer is written.
    """
    check_watches(program.plan.steps, watches)
    for watch in watches:
        for item in program.interventions:
            if item.step in watch.opens:
                openable(item)
    return replace(program, watches=watches)


class RollingReads:
    """The answer watches of one run of the loop.

    Args:
        request: the request, before its prefill.
        hooks: where hooks go.
        acts: False in monitor mode: read and record, change nothing.
        beams: whether the rows of a prompt share one fate.
    """

    def __init__(self, request: GuidedRequest, hooks: BlockHooks, *, acts: bool, beams: bool) -> None:
        self._request = request
        self._hooks = hooks
        self._acts = acts
        program = request.program
        mask = request.prompt_mask
        columns = torch.arange(mask.shape[1], device=mask.device)
        newest = torch.where(mask, columns, -1).amax(dim=1)
        ends = torch.tensor(request.columns, device=mask.device)
        self._states = PromptStates(newest, request.mean_mask)
        prefilled = newest > ends
        self._reads_prompt = bool(prefilled.any())
        copies = request.copies if beams else 1
        self._watched = [WatchedRows(watch, prefilled, copies=copies) for watch in program.watches]
        self._late = LateSteering(request, [watch.opens for watch in program.watches]) if acts else None
        self._seen: dict[int, int] = {}
        self._over = torch.zeros_like(prefilled)
        self._installed: InstalledHooks | None = None
        self._lives = True
        steered = () if self._late is None else self._late.blocks
        self._live_blocks = {*steered, *(block for rows in self._watched for block in rows.answer_blocks)}

    @property
    def stopped(self) -> Tensor | None:
        """Bool `[rows]`: rows that are refused in the middle of their answer; None where none can be."""
        return self._joined([rows.stopped for rows in self._watched]) if self._acts and self._lives else None

    @property
    def opened(self) -> Tensor | None:
        """Bool `[rows]`: rows that some entry steers from the middle of their answer on; None where none can be."""
        return None if self._late is None or not self._lives else self._late.rows

    def start(self) -> dict[Place, RemovableHandle]:
        """Install the hooks, in front of all others of the request; return their handles."""
        blocks = self._live_blocks.union(*(rows.watch.probe.blocks for rows in self._watched))
        hooks: dict[Place, Hook] = {block: self._hook(block) for block in sorted(blocks)}
        self._installed = self._hooks.install(hooks)
        return self._installed.handles

    def stop(self) -> None:
        """Take away every hook that is still there."""
        if self._installed is not None:
            self._installed.remove()

    def watch(self, verdicts: Sequence[RowVerdict]) -> None:
        """Learn which rows are watched; where none is, nothing is read any more.

        Args:
            verdicts: of each row, at the end of the prefill.
        """
        device = self._over.device
        found = False
        for rows in self._watched:
            chosen = [entry.verdict.action == "guide" and rows.watch.step in entry.verdict.use for entry in verdicts]
            rows.choose(torch.tensor(chosen, device=device))
            found = found or any(chosen)
        self._states.forget()
        if not found:
            self._lives = False
            self.stop()
        elif self._installed is not None:
            self._installed.remove(keep=self._live_blocks)

    def after_pass(self, generated: int) -> bool:
        """Decide by what the last pass read, without waiting for the device.

        Args:
            generated: how many generated tokens have gone through the model; 0 after the prefill.

        Returns:
            Whether anything was read.

        Raises:
            GuidanceDidNotFireError: a block that had to be read was not.
        """
        if not self._lives:
            return False
        for block in self._live_blocks:
            if self._seen.get(block, 0) != self._request.prompt_mask.shape[1] + generated:
                raise unread(block, generated)
        due = [rows for rows in self._watched if self._due(rows.watch, generated)]
        for rows in due:
            rows.decide(generated, self._over)
        # What other watches open has not changed.
        if self._late is not None and any(rows.watch.opens for rows in due):
            stopped = self.stopped
            self._late.open(
                [rows.opened if stopped is None else rows.opened & ~stopped for rows in self._watched], generated
            )
        return bool(due)

    def ended(self, done: Tensor) -> None:
        """Learn which rows have ended or are refused, bool `[rows]`; they are read no more.

        Not for beams, whose candidates end and not their rows: `searched` is for them.
        """
        self._over = self._over | done.to(self._over.device)

    def searched(self, done: Tensor) -> None:
        """Learn of which prompts beam search keeps nothing more, bool `[prompts]`; their beams are read no more."""
        self.ended(done.repeat_interleave(self._request.copies))

    def verdicts(self, verdicts: Sequence[RowVerdict]) -> tuple[RowVerdict, ...]:
        """Return the verdicts with what was read of the answers; waits for the device."""
        for rows in self._watched if self._lives else ():
            verdicts = rows.outcome(verdicts, acts=self._acts)
        return tuple(verdicts)

    def doses(self, doses: Sequence[tuple[Dose, ...]], fed_back: int) -> tuple[tuple[Dose, ...], ...]:
        """Return the doses with those of entries that were opened late; waits for the device.

        Args:
            doses: of the entries that the verdicts opened, by row.
            fed_back: generated tokens of each row that went through the model.

        Raises:
            GuidanceDidNotFireError: a block was not read or steered in every pass, or not at every read.
        """
        if not self._lives:
            return tuple(doses)
        for rows in self._watched:
            wanted = sum(self._due(rows.watch, generated) for generated in range(fed_back + 1))
            if rows.decided != wanted:
                raise unread(rows.answer_blocks[0], fed_back)
        return tuple(doses) if self._late is None else self._late.doses(doses, fed_back)

    def _due(self, watch: AnswerWatch, generated: int) -> bool:
        return watch.reads_after(generated) if generated else self._reads_prompt

    def _hook(self, block: int) -> Hook:
        request, current = self._request, ACTIVE.get

        def act(_module: nn.Module, _arguments: Any, output: Any) -> Any:
            if current() is not request:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            changed = self._at_block(block, hidden)
            if changed is None:
                return None
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        return act

    def _at_block(self, block: int, hidden: Tensor) -> Tensor | None:
        first, width = self._seen.get(block, self._request.first_column), self._request.prompt_mask.shape[1]
        stop = first + hidden.shape[1]
        self._seen[block] = stop
        if first < width:
            if stop > width or hidden.shape[0] != self._request.rows:
                raise unexpected_width(block, width - first, hidden.shape[1])
            self._at_prompt(block, hidden, first, whole=stop == width)
            return None
        if hidden.shape[1] != 1:
            raise unexpected_width(block, 1, hidden.shape[1])
        generated = stop - width
        due = [rows for rows in self._watched if block in rows.answer_blocks and rows.watch.reads_after(generated)]
        if due:
            states = hidden[:, -1].float()
            for rows in due:
                rows.read(block, states)
        return None if self._late is None else self._late.at_block(block, hidden)

    def _at_prompt(self, block: int, hidden: Tensor, first: int, *, whole: bool) -> None:
        if self._late is not None:
            self._late.learn(block, hidden)
        for rows in self._watched:
            rows.watch.probe.place(hidden.device)
        over = {tokens for rows in self._watched for tokens in rows.reads_of(block)}
        mean = self._states.mean(block, hidden, first) if "prompt_mean" in over else None
        newest = self._states.at_ends(block, hidden, first) if "end" in over and self._reads_prompt else None
        for rows in self._watched if whole else ():
            if mean is not None:
                rows.read_prompt(block, mean)
            if newest is not None:
                rows.read(block, newest)

    @staticmethod
    def _joined(masks: Sequence[Tensor]) -> Tensor | None:
        return torch.stack(tuple(masks)).any(dim=0) if masks else None


def unread(block: int, generated: int) -> GuidanceDidNotFireError:
    """Return the error for a pass in which a block of a watched answer was not reached."""
    return GuidanceDidNotFireError(
        "A watched answer was not read where the plan says.",
        expected="every decode step passes the read blocks once, and every read takes place",
        found=f"a gap after {generated} generated tokens",
        where=f"decoder block {block}",
        next_step="Look for code that removes hooks or compiles decoder blocks, then unwrap and wrap again.",
    )
