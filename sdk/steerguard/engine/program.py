"""What a plan does at each decoder block: bound once, shared by every request, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.engine.declared import check_declared
from steerguard.engine.hooks import BlockInput, named, passing_order
from steerguard.engine.operators import check_operator
from steerguard.engine.verdict import DeviceRules
from steerguard.errors import UnsupportedPlanError
from steerguard.guidance.intervention import Operated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerguard.detect.probe import Probe
    from steerguard.engine.hooks import Place
    from steerguard.guidance.answer_watch import AnswerWatch
    from steerguard.guidance.intervention import Intervention
    from steerguard.guidance.search.search_guidance import SearchGuidance
    from steerguard.plan.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockProgram:
    """What happens at one block: its input is changed; at its output, in this order: read, decide, change."""

    reads: tuple[tuple[Probe, int], ...] = ()
    """Probes and the position in each of a part that reads this block."""
    decides: bool = False
    """Whether every detector has been read once this block is done."""
    interventions: tuple[Intervention, ...] = ()
    """At the output, in the order in which they act."""
    before: tuple[Intervention, ...] = ()
    """At the input, in the order in which they act."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """The bound plan."""

    plan: Plan
    probes: tuple[Probe, ...]
    interventions: tuple[Intervention, ...]
    rules: DeviceRules
    blocks: dict[int, BlockProgram]
    watches: tuple[AnswerWatch, ...] = ()
    searches: tuple[SearchGuidance, ...] = ()

    @property
    def read_blocks(self) -> tuple[int, ...]:
        """Blocks that a detector reads."""
        return tuple(sorted(block for block, program in self.blocks.items() if program.reads))

    @property
    def decides_late(self) -> bool:
        """Whether something acts before every detector was read, so that the verdict needs a pass of its own."""
        last = max(self.read_blocks, default=-1)
        return any(passing_order(place_of(item)) < (last, True) for item in self.interventions)

    @property
    def reads_prompt_mean(self) -> bool:
        """Whether any detector or answer watch reads the prompt mean."""
        probes = (*self.probes, *(watch.probe for watch in self.watches))
        return any("prompt_mean" in probe.over for probe in probes)


def place_of(intervention: Intervention) -> Place:
    """Return the place at which an intervention acts."""
    return BlockInput(intervention.block) if intervention.point == "resid_pre" else intervention.block


def bind_program(plan: Plan, probes: Sequence[Probe], interventions: Sequence[Intervention]) -> Program:
    """Arrange probes and interventions by block, once the interventions are what the plan's steps declared.

    Raises:
        UnsupportedPlanError: an entry does more, less or something else than its step declared, so the plan's passes,
            cost and strictness would be wrong.
        ArtifactFormatError: the tensors of an operator do not fit the model.
    """
    check_declared(plan.steps, interventions)
    return arranged_program(plan, probes, interventions)


def arranged_program(plan: Plan, probes: Sequence[Probe], interventions: Sequence[Intervention]) -> Program:
    """Arrange probes and interventions by block, whatever the plan's steps declared.

    Raises:
        UnsupportedPlanError: the plan takes one pass over the prompt, and the interventions need two.
        ArtifactFormatError: the tensors of an operator do not fit the model.
    """
    for item in interventions:
        if isinstance(item.schedule, Operated):
            check_operator(item.schedule.operator, width=plan.model.hidden_size, where=item.source)
    last_read = max((block for probe in probes for block in probe.blocks), default=None)
    touched = {block for probe in probes for block in probe.blocks} | {item.block for item in interventions}
    blocks = {
        block: BlockProgram(
            reads=tuple((probe, index) for probe in probes for index, read in enumerate(probe.blocks) if read == block),
            decides=block == last_read,
            interventions=tuple(item for item in interventions if place_of(item) == block),
            before=tuple(item for item in interventions if place_of(item) == BlockInput(block)),
        )
        for block in sorted(touched)
    }
    rules = DeviceRules(
        rules=plan.rules,
        default_action=plan.default_action,
        default_use=plan.default_use,
        steps=tuple(step.id for step in plan.steps),
        tolerances=plan.tolerances,
    )
    program = Program(plan=plan, probes=tuple(probes), interventions=tuple(interventions), rules=rules, blocks=blocks)
    if program.decides_late and plan.cost.passes == 1:
        first = min((place_of(item) for item in interventions), key=passing_order)
        raise UnsupportedPlanError(
            "The plan takes one pass over the prompt, and what was bound needs two.",
            expected=f"steering from block {last_read} on",
            found=f"steering from {named(first)} on",
            where=f"policy `{plan.policy_name}`",
            next_step="Declare every steered block and point in the footprint of the method.",
        )
    return program
