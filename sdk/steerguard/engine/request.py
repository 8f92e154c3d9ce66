"""One guided request: what its hooks read, decide and change.

Invariants:
- All state belongs to this object; nothing is stored on the model or the program.
- Verdicts are taken once, at the end of the generation prompt, and frozen. Until the prefill ends, only a linear gate
  that cannot be read changes one: it turns `guide` into `refuse`.
- A row whose gate is closed is bit-identical to the unguided run of the same batch: in prefill by selection
  (`torch.where`), in decode by adding negative zero, which changes no IEEE 754 value.
- No decode step waits for the device.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

import torch

from steerguard.engine.additions import Additions
from steerguard.engine.hooks import adding_hook, stepping_hook
from steerguard.engine.schedules import changes_answer, steady_vector
from steerguard.errors import GuidanceDidNotFireError
from steerguard.guidance.intervention import Intervention, LinearGate
from steerguard.models.prompt_mean import prompt_mean, prompt_mean_mask

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from steerguard.artifacts.probe_params import Over
    from steerguard.engine.hooks import Hook
    from steerguard.engine.program import BlockProgram, Program


class GuidedRequest:
    """State of one batch from prefill to the last token.

    Args:
        owner: the guard that runs the request.
        program: the bound plan.
        prompt_mask: bool `[rows, prompt width]`, False at padding.
        ends: per row the column of the end of the generation prompt; None where there is none.
        steers: False in monitor mode and in checks: read and decide, change nothing.
        cached: whether decode steps feed only the new token.
        within_budget: False keeps every gate closed; the rows are refused.
        most_passes: how many decode passes can come at most; None where that is not known.
    """

    def __init__(
        self,
        *,
        owner: object,
        program: Program,
        prompt_mask: Tensor,
        ends: Sequence[int | None],
        steers: bool,
        cached: bool,
        within_budget: bool = True,
        most_passes: int | None = None,
    ) -> None:
        self.owner = owner
        self.in_callbacks = False
        """True while processors and criteria run: no forward pass belongs there."""
        self._live = True
        self._thread = get_ident()
        self.program = program
        self.prompt_mask = prompt_mask
        self.steers = steers
        self.within_budget = within_budget
        self.recognised = tuple(end is not None for end in ends)
        self.columns = tuple(0 if end is None else end for end in ends)
        self.scores: dict[str, Tensor] = {}
        """float32 `[rows]` by detector."""
        self.parts_read: dict[str, int] = {}
        """How many of its parts each detector has read."""
        self.open: dict[str, Tensor] = {}
        """bool `[rows]` by guidance step, once decided; closed again in rows with a linear gate that is not finite."""
        self.gates: dict[Intervention, Tensor] = {}
        """bool `[rows]`: rows that each intervention changed."""
        self.gate_scores: dict[Intervention, Tensor] = {}
        """float32 `[rows]` of linear gates."""
        self.changed: dict[Intervention, Tensor] = {}
        """int64 `[rows]`: positions changed in prefill, or in the last pass of an uncached request."""
        self.decode_passes: dict[int, int] = {}
        """Positions per row that the hooks of decode steps saw at each block."""
        self.decode_ends: dict[int, int] = {}
        """By block, after how many decode passes its hook has nothing left to add; absent where it always has."""
        self._cached = cached
        self._most_passes = most_passes
        self._frozen = False
        self._lasting: tuple[Intervention, ...] = ()
        self._outputs: dict[int, Tensor] = {}
        """Empty tensors with the device, type and width of each changed block's output."""
        self._ends = torch.tensor(self.columns, device=prompt_mask.device)
        self._in_mean = prompt_mean_mask(prompt_mask, self._ends) if program.reads_prompt_mean else prompt_mask
        self._additions = Additions(prompt_mask, self._ends)
        self._eligible = torch.tensor([seen and within_budget for seen in self.recognised], device=prompt_mask.device)
        if not program.probes:
            self._decide()

    @property
    def permits_forward(self) -> bool:
        """Whether the loop may run the model now: the request has not ended and this is its thread."""
        return self._live and not self.in_callbacks and self._thread == get_ident()

    def end(self) -> None:
        """Permit no forward pass from here on."""
        self._live = False

    @property
    def rows(self) -> int:
        """Number of rows in the batch."""
        return self.prompt_mask.shape[0]

    def at_block(self, block: int, hidden: Tensor) -> Tensor | None:
        """Read, decide and change at one block; None leaves its output as it is.

        Called in the prefill, and in every later pass of a request without a cache.

        Args:
            block: 0-based decoder block.
            hidden: `[rows, columns, width]`, the block's output.
        """
        program = self.program.blocks[block]
        if not self._frozen:
            self._check_prefill_width(block, hidden)
            self._read(program, hidden)
            if program.decides:
                self._decide()
        if not self.steers:
            return None
        return self._change(program, hidden)

    def freeze(self, opened: Collection[Intervention]) -> None:
        """End the prefill: from here on the gates are fixed.

        Args:
            opened: interventions whose gate is open for at least one row.
        """
        self._frozen = True
        self._lasting = tuple(item for item in opened if changes_answer(item.schedule) or not self._cached)

    @property
    def lasting_blocks(self) -> tuple[int, ...]:
        """Blocks whose prefill hook later passes still need: those of a request without a cache."""
        return () if self._cached else tuple(sorted({item.block for item in self._lasting}))

    def decode_hooks(self) -> dict[int, Hook]:
        """Return what decode steps with a cache add, by block."""
        hooks: dict[int, Hook] = {}
        measured = False
        for block in sorted({item.block for item in self._lasting}) if self._cached else ():
            gates = {item: self.gates[item] for item in self._lasting if item.block == block}
            like = self._outputs[block]
            is_steady = any(steady_vector(item.schedule) is not None for item in gates)
            rest = self._additions.steady(gates, like) if is_steady else None
            passes = max(self._additions.passes_left(item, gate) for item, gate in gates.items())
            if self._most_passes is not None:
                passes = min(passes, self._most_passes)
            if passes > 0:
                deltas = self._additions.stepped(gates, like, passes=passes)
                hooks[block] = stepping_hook(self, block, deltas, rest, self.decode_passes)
                if rest is None:
                    self.decode_ends[block] = passes
            elif rest is not None:
                hooks[block] = adding_hook(self, block, rest, self.decode_passes, measures=not measured)
                measured = True
        self.decode_passes.update(dict.fromkeys(hooks, 0))
        if self._cached:
            self._additions.forget_prompt()
        return hooks

    def changed_in_decode(self, item: Intervention) -> list[int]:
        """Return per row how many positions decode steps with a cache changed, were the gate open."""
        return self._additions.changed_in_decode(item, passes=self.decode_passes.get(item.block, 0))

    def _check_prefill_width(self, block: int, hidden: Tensor) -> None:
        width = self.prompt_mask.shape[1]
        if hidden.shape[1] != width or hidden.shape[0] != self.rows:
            raise _unexpected_width(block, width, hidden.shape[1])

    def _at_ends(self, hidden: Tensor) -> Tensor:
        """Return float32 `[rows, width]` at the end of each row's generation prompt."""
        ends = self._ends.to(hidden.device)
        return hidden[torch.arange(self.rows, device=hidden.device), ends].float()

    def _prompt_mean(self, hidden: Tensor) -> Tensor:
        """Return float32 `[rows, width]`, the mean over each row's prompt; NaN where a prompt is too short for one."""
        return prompt_mean(hidden, self._in_mean.to(hidden.device))

    def _read(self, program: BlockProgram, hidden: Tensor) -> None:
        if not program.reads:
            return
        states: dict[Over, Tensor] = {}
        for probe, index in program.reads:
            over = probe.over[index]
            if over not in states:
                states[over] = self._prompt_mean(hidden) if over == "prompt_mean" else self._at_ends(hidden)
            part = probe.partial(index, states[over])
            so_far = self.scores.get(probe.id)
            self.scores[probe.id] = part if so_far is None else so_far.to(part.device) + part
            self.parts_read[probe.id] = self.parts_read.get(probe.id, 0) + 1

    def _decide(self) -> None:
        eligible = self._eligible
        for score in self.scores.values():
            eligible = eligible.to(score.device) & torch.isfinite(score)
        self.open = self.program.rules.open_rows(self.scores, eligible=eligible)

    def _change(self, program: BlockProgram, hidden: Tensor) -> Tensor | None:
        if not program.interventions:
            return None
        incoming = hidden
        if not self._frozen:
            self._outputs[program.interventions[0].block] = hidden.new_empty((0, hidden.shape[2]))
        for intervention in program.interventions:
            gate = self.gates.get(intervention)
            if gate is None:
                gate = self._open_gate(intervention, incoming)
                self.gates[intervention] = gate
            places, added = self._additions.in_pass(intervention, hidden)
            mask = places & gate[:, None]
            self.changed[intervention] = mask.sum(dim=1)
            hidden = torch.where(mask[:, :, None], hidden + added, hidden)
        return hidden

    def _open_gate(self, intervention: Intervention, incoming: Tensor) -> Tensor:
        opened = self.open.get(intervention.step)
        if opened is None:
            raise GuidanceDidNotFireError(
                "An intervention was reached before the verdict was taken.",
                expected="a verdict at the last block that a detector reads",
                found="no verdict in this prefill",
                where=intervention.source,
                next_step="Look for code that removes hooks or compiles decoder blocks, then unwrap and wrap again.",
            )
        gate = opened.to(incoming.device)
        if isinstance(intervention.gate, LinearGate):
            weight = intervention.gate.weight.to(incoming.device)
            score = (self._at_ends(incoming) * weight).sum(dim=-1) + intervention.gate.bias
            self.gate_scores[intervention] = score
            finite = torch.isfinite(score)
            # A closed gate would return the row unguided, so a row that cannot be read is refused: the host sees the
            # same score, and no gate of the row opens from here on.
            broken = gate & ~finite
            self.open = {step: rows & ~broken.to(rows.device) for step, rows in self.open.items()}
            gate = gate & finite & (score > 0)
        return gate


def _unexpected_width(block: int, expected: int, found: int) -> GuidanceDidNotFireError:
    return GuidanceDidNotFireError(
        "A forward pass had another number of positions than the request.",
        expected=f"{expected} positions",
        found=f"{found} positions",
        where=f"decoder block {block}",
        next_step="Generate without chunked prefill and without changing the batch between steps.",
    )
