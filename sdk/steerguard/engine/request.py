"""One guided request: what its hooks read, decide and change.

Invariants:
- All state belongs to this object; nothing is stored on the model or the program.
- Verdicts are taken once, at the end of the generation prompt, and frozen. Until the prefill ends, only a linear gate
  that cannot be read changes one: it turns `guide` into `refuse`.
- A row whose gate is closed is bit-identical to the unguided run of the same batch: in prefill and for operators by
  selection (`torch.where`), for additions in decode by adding negative zero, which changes no IEEE 754 value.
- A column's phase is told by where it lies in the request, never by the width of the pass that brings it.
- No decode step waits for the device.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

import torch

from steerguard.engine.active import OUTSIDE
from steerguard.engine.additions import Additions
from steerguard.engine.copies import any_copy, every_copy
from steerguard.engine.decoding import DecodeHooks, decode_hooks
from steerguard.engine.hooks import BlockInput, entering_hook, named, passing_order, reading_hook
from steerguard.engine.program import place_of
from steerguard.engine.prompt_states import PromptStates, incomplete, unexpected_width
from steerguard.engine.schedules import changes_answer
from steerguard.errors import GuidanceDidNotFireError
from steerguard.guidance.intervention import Intervention, LinearGate
from steerguard.models.prompt_mean import prompt_mean_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from torch import Tensor

    from steerguard.engine.exceeded import ExceededLimit
    from steerguard.engine.hooks import Hook, Place
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
        revoked: True keeps every gate closed and reads nothing; the rows are refused.
        most_passes: how many decode passes can come at most; None where that is not known.
        copies: rows per prompt, side by side: its beams or the answers asked for; they share one verdict.
        chunk: how many columns each pass of the prefill brings; None for all at once.
        texts: bool `[rows, prompt width]`, False where an image or sound stands; None where there is none.
    """

    in_callbacks = False
    """True while processors and criteria run: no forward pass belongs there."""
    on_searched: Callable[[Tensor], None] | None = None
    """Told after each step of beam search which prompts' searches have ended, bool `[prompts]`; None: nobody asks."""
    extra_passes = 0
    """How many passes over the prompt were made before the prefill."""
    exceeded: tuple[ExceededLimit, ...] = ()
    """Why rows are not within the budget."""
    first_column = 0
    """The first column that the prefill brings; those before it lie in a cache and are neither read nor changed."""
    passing: int | None = OUTSIDE
    """Where in a pass of the model the request is; kept by the classes of the wrapped model and its first block."""
    _live = True
    _frozen = False
    _verdict_known = False

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
        revoked: bool = False,
        most_passes: int | None = None,
        copies: int = 1,
        chunk: int | None = None,
        texts: Tensor | None = None,
    ) -> None:
        self.owner = owner
        self._thread = get_ident()
        self.program = program
        self.prompt_mask = prompt_mask
        self.steers = steers
        self.copies = copies
        self.chunk = chunk
        self.revoked = revoked
        self.within_budget = [within_budget] * prompt_mask.shape[0]
        """By row; False keeps its gates closed, and it is refused."""
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
        self.decode_passes: dict[Place, int] = {}
        """Positions per row that the hooks of decode steps saw at each place."""
        self.decode_ends: dict[Place, int] = {}
        """By place, after how many decode passes its hook has nothing left to do; absent where it always has."""
        self._cached = cached
        self._most_passes = most_passes
        self._lasting: tuple[Intervention, ...] = ()
        self._settled: frozenset[Intervention] = frozenset()
        """Interventions whose gates were closed, for all rows, before the prefill."""
        self._seen: dict[Place, int] = {}
        """Columns of the prompt that have passed each place."""
        self._outputs: dict[Place, Tensor] = {}
        """Empty tensors with the device, type and width of the hidden states at each changed place."""
        self._ends = torch.tensor(self.columns, device=prompt_mask.device)
        in_mean = prompt_mean_mask(prompt_mask, self._ends) if program.reads_prompt_mean else prompt_mask
        self.texts = texts
        self.mean_mask = in_mean = in_mean if texts is None else in_mean & texts
        """bool `[rows, prompt width]`: the columns that prompt means are over."""
        self.prompt_states = PromptStates(self._ends, in_mean)
        self._additions = Additions(prompt_mask, self._ends, texts)
        self._eligible = torch.tensor([seen and within_budget for seen in self.recognised], device=prompt_mask.device)
        if revoked:
            self.close()
        elif not program.probes:
            self._decide()

    @property
    def verdict_known(self) -> bool:
        """Whether the verdict was taken over, before or behind the prefill of another request."""
        return self._verdict_known

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

    def prefill_hooks(self) -> dict[Place, Hook]:
        """Return the hooks that the prefill needs: where something is read or may be changed."""
        hooks: dict[Place, Hook] = {}
        for block, program in self.program.blocks.items():
            if self._acts(program.before):
                hooks[BlockInput(block)] = entering_hook(self, block)
            if (program.reads and not self._verdict_known) or self._acts(program.interventions):
                hooks[block] = reading_hook(self, block)
        return hooks

    def at_block(self, block: int, hidden: Tensor) -> Tensor | None:
        """Read, decide and change at the output of one block; None leaves it as it is.

        Called in every pass of the prefill, and in every later pass of a request without a cache.

        Args:
            block: 0-based decoder block.
            hidden: `[rows, columns, width]`, the block's output.
        """
        program = self.program.blocks[block]
        first, whole = self._columns(block, hidden)
        if not self._frozen and not self._verdict_known:
            self._read(program, block, hidden, first, whole=whole)
            if program.decides and whole:
                self._decide()
        return self._change(block, program.interventions, hidden, first, whole=whole)

    def before_block(self, block: int, hidden: Tensor) -> Tensor | None:
        """Change the input of one block; otherwise as `at_block`."""
        place = BlockInput(block)
        first, whole = self._columns(place, hidden)
        return self._change(place, self.program.blocks[block].before, hidden, first, whole=whole)

    def freeze(self, opened: Collection[Intervention]) -> None:
        """End the prefill: from here on the gates are fixed.

        Args:
            opened: interventions whose gate is open for at least one row.
        """
        self._frozen = True
        self.prompt_states.forget()
        self._lasting = tuple(item for item in opened if changes_answer(item.schedule) or not self._cached)

    @property
    def lasting_places(self) -> tuple[Place, ...]:
        """Places whose prefill hook later passes still need: those of a request without a cache."""
        return () if self._cached else tuple({place_of(item) for item in self._lasting})

    def decode_hooks(self, laid_out: Callable[..., DecodeHooks] = decode_hooks) -> dict[Place, Hook]:
        """Return what decode steps with a cache do, by place; `laid_out` may put it elsewhere, as compiled steps need."""
        if not self._cached:
            return {}
        made = laid_out(
            self,
            self._lasting,
            self._additions,
            outputs=self._outputs,
            passes=self.decode_passes,
            most_passes=self._most_passes,
        )
        self.decode_ends = made.ends
        self.decode_passes.update(dict.fromkeys(made.hooks, 0))
        self._additions.forget_prompt()
        return made.hooks

    def changed_in_decode(self, item: Intervention) -> list[int]:
        """Return per row how many positions decode steps with a cache changed, were the gate open."""
        return self._additions.changed_in_decode(item, passes=self.decode_passes.get(place_of(item), 0))

    def unread(self) -> list[str]:
        """Return what the prefill should have passed and did not, told from the plan and not from the hooks."""
        # Where no row can be guided or judged by a score, none need be read.
        probes = self.program.probes if self.reads_anything else ()
        missing = [probe.id for probe in probes if self.parts_read.get(probe.id, 0) != len(probe.blocks)]
        if self.steers:
            missing += [item.source for item in self.program.interventions if item not in self.gates]
            acting = {place_of(item) for item in self.program.interventions if item not in self._settled}
            width = self.prompt_mask.shape[1]
            missing += [
                f"{named(place)} after {self._seen.get(place, self.first_column)} of {width} columns"
                for place in sorted(acting, key=passing_order)
                if self._seen.get(place, self.first_column) != width
            ]
        return missing

    def require_complete(self) -> None:
        """Prove that the prefill, or the pass before it, went through every place that it must.

        Raises:
            GuidanceDidNotFireError: names what is missing.
        """
        missing = self.unread()
        if missing:
            raise incomplete(missing)

    def adopt_rows(self, other: GuidedRequest, rows: Tensor) -> None:
        """Take over what another request decided about some of its rows, int64 `[rows]`, which are now its own."""
        self.open = {step: found[rows.to(found.device)] for step, found in other.open.items()}
        self.gates = {item: found[rows.to(found.device)] for item, found in other.gates.items()}
        self._outputs, self._verdict_known = other._outputs, True

    def limit(self, within_budget: Sequence[bool]) -> None:
        """Close the gates of rows that would exceed the budget; before anything was read."""
        self.within_budget = [one and other for one, other in zip(self.within_budget, within_budget, strict=True)]
        self._eligible = self._eligible & torch.tensor(self.within_budget, device=self._eligible.device)
        if not self.program.probes and not self.revoked:
            self._decide()

    @property
    def reads_anything(self) -> bool:
        """Whether a score of any row can matter: nothing is revoked, it has a prompt end and is within the budget."""
        return not self.revoked and any(
            seen and within for seen, within in zip(self.recognised, self.within_budget, strict=True)
        )

    def adopt_verdict(self, other: GuidedRequest) -> None:
        """Take over what another request over the same rows read and decided; waits for the device."""
        self.scores, self.parts_read, self.open = other.scores, other.parts_read, other.open
        self._verdict_known = True
        opened = {step for step, rows in self.open.items() if bool(rows.any())}
        self._settle({item for item in self.program.interventions if item.step not in opened})

    def adopt_gates(self, other: GuidedRequest) -> None:
        """Take over, with the verdict, the gates that another request over the same rows opened."""
        self.adopt_verdict(other)
        self.gate_scores = other.gate_scores
        self._settle({item for item in self.program.interventions if not bool(other.gates[item].any())})
        self.gates.update(other.gates)

    def close(self) -> None:
        """Close every gate, nothing having been read; for a request of which every row is refused beforehand."""
        self.open = {step.id: torch.zeros_like(self._eligible) for step in self.program.plan.steps}
        self._verdict_known = True
        self._settle(self.program.interventions)

    def may_open(self, item: Intervention) -> bool:
        """Return whether the gate of an intervention is not known to be closed in every row."""
        return item not in self._settled

    def _settle(self, closed: Collection[Intervention]) -> None:
        """Note interventions whose gate is closed in every row."""
        self._settled = self._settled.union(closed)
        for item in closed:
            self.gates[item] = torch.zeros_like(self._eligible)
            self.changed[item] = torch.zeros_like(self._ends)

    def _acts(self, interventions: Sequence[Intervention]) -> bool:
        return self.steers and any(item not in self._settled for item in interventions)

    def _columns(self, place: Place, hidden: Tensor) -> tuple[int, bool]:
        """Return the first column that a pass brings, and whether it completes the prompt."""
        if self._frozen:
            return 0, True
        first, width = self._seen.get(place, self.first_column), self.prompt_mask.shape[1]
        wanted = width - first if self.chunk is None else min(self.chunk, width - first)
        if hidden.shape[1] != wanted or hidden.shape[0] != self.rows:
            raise unexpected_width(place, wanted, hidden.shape[1])
        self._seen[place] = first + wanted
        return first, first + wanted == width

    def _read(self, program: BlockProgram, block: int, hidden: Tensor, first: int, *, whole: bool) -> None:
        if not program.reads:
            return
        states: dict[str, Tensor | None] = {}
        for over in {probe.over[index] for probe, index in program.reads}:
            gather = self.prompt_states.mean if over == "prompt_mean" else self.prompt_states.at_ends
            states[over] = gather(block, hidden, first)
        for probe, index in program.reads if whole else ():
            shown = states[probe.over[index]]
            assert shown is not None
            part = probe.partial(index, shown)
            so_far = self.scores.get(probe.id)
            self.scores[probe.id] = part if so_far is None else so_far.to(part.device) + part
            self.parts_read[probe.id] = self.parts_read.get(probe.id, 0) + 1

    def _decide(self) -> None:
        eligible = self._eligible
        for score in self.scores.values():
            eligible = eligible.to(score.device) & torch.isfinite(score)
        eligible = every_copy(eligible, self.copies)
        self.open = self.program.rules.open_rows(self.scores, eligible=eligible, copies=self.copies)

    def _change(
        self, place: Place, interventions: Sequence[Intervention], hidden: Tensor, first: int, *, whole: bool
    ) -> Tensor | None:
        if not self._acts(interventions):
            return None
        incoming = hidden
        if not self._frozen:
            self._outputs[place] = hidden.new_empty((0, hidden.shape[2]))
        for intervention in interventions:
            gate = self.gates.get(intervention)
            if gate is None:
                gate = self._open_gate(intervention, place, incoming, first, whole=whole)
                if gate is None:
                    continue
                self.gates[intervention] = gate
            places, changed = self._additions.in_pass(intervention, hidden, first=first)
            mask = places & gate.to(hidden.device)[:, None]
            self._count(intervention, mask.sum(dim=1))
            hidden = torch.where(mask[:, :, None], changed, hidden)
        return hidden

    def _count(self, intervention: Intervention, positions: Tensor) -> None:
        """Count the passes of a prefill together; every later pass goes over all columns again."""
        before = None if self._frozen else self.changed.get(intervention)
        self.changed[intervention] = positions if before is None else before.to(positions.device) + positions

    def _open_gate(
        self, intervention: Intervention, place: Place, incoming: Tensor, first: int, *, whole: bool
    ) -> Tensor | None:
        """Return the rows that are open; None while the prefill has not shown enough of the prompt to tell."""
        linear = isinstance(intervention.gate, LinearGate)
        states = self.prompt_states.at_ends(place, incoming, first) if linear else incoming
        if not whole and (linear or intervention.step not in self.open):
            return None
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
            score = (states * weight).sum(dim=-1) + intervention.gate.bias
            self.gate_scores[intervention] = score
            finite = every_copy(torch.isfinite(score), self.copies)
            # A closed gate would return the row unguided, so a row that cannot be read is refused: the host sees the
            # same score, and no gate of the row opens from here on.
            broken = gate & ~finite
            self.open = {step: rows & ~broken.to(rows.device) for step, rows in self.open.items()}
            gate = gate & finite & any_copy(score > 0, self.copies)
        return gate
