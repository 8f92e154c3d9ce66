"""What a plan does at each decoder block: bound once, shared by every request, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.engine.verdict import DeviceRules
from steerguard.errors import UnsupportedPlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerguard.detect.linear_probe import LinearProbe
    from steerguard.guidance.intervention import Intervention
    from steerguard.plan.plan import Plan

SUPPORTED_POINTS = frozenset({"resid_post"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockProgram:
    """What happens at the output of one block, in this order: read, decide, change."""

    reads: tuple[tuple[LinearProbe, int], ...] = ()
    """Probes and the position in each of a part that reads this block."""
    decides: bool = False
    """Whether every detector has been read once this block is done."""
    interventions: tuple[Intervention, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """The bound plan."""

    plan: Plan
    probes: tuple[LinearProbe, ...]
    interventions: tuple[Intervention, ...]
    rules: DeviceRules
    blocks: dict[int, BlockProgram]

    @property
    def read_blocks(self) -> tuple[int, ...]:
        """Blocks that a detector reads."""
        return tuple(sorted(block for block, program in self.blocks.items() if program.reads))

    @property
    def reads_prompt_mean(self) -> bool:
        """Whether any detector reads the prompt mean."""
        return any("prompt_mean" in probe.over for probe in self.probes)


def bind_program(plan: Plan, probes: Sequence[LinearProbe], interventions: Sequence[Intervention]) -> Program:
    """Arrange probes and interventions by block.

    Raises:
        UnsupportedPlanError: the plan needs a probe prefill, or an intervention acts where this engine does not.
    """
    if plan.cost.passes != 1:
        raise UnsupportedPlanError(
            "The plan needs two passes over the prompt, which this version cannot execute.",
            expected="detectors that read blocks up to the first steered block",
            found=f"detectors read up to block {max(b for d in plan.detectors for b in d.blocks)}, "
            f"steering starts at block {min(b for s in plan.steps for b in s.blocks)}",
            where=f"policy `{plan.policy_name}`",
            next_step="Set `blocks` of the guidance entry to start at the detector's last block or later.",
        )
    for intervention in interventions:
        if intervention.point not in SUPPORTED_POINTS:
            raise UnsupportedPlanError(
                f"This engine does not act at `{intervention.point}`.",
                expected=", ".join(sorted(SUPPORTED_POINTS)),
                where=f"guidance entry `{intervention.step}`",
            )
    last_read = max((block for probe in probes for block in probe.blocks), default=None)
    touched = {block for probe in probes for block in probe.blocks} | {item.block for item in interventions}
    blocks = {
        block: BlockProgram(
            reads=tuple((probe, index) for probe in probes for index, read in enumerate(probe.blocks) if read == block),
            decides=block == last_read,
            interventions=tuple(item for item in interventions if item.block == block),
        )
        for block in sorted(touched)
    }
    rules = DeviceRules(
        rules=plan.rules,
        default_action=plan.default_action,
        default_use=plan.default_use,
        steps=tuple(step.id for step in plan.steps),
    )
    return Program(plan=plan, probes=tuple(probes), interventions=tuple(interventions), rules=rules, blocks=blocks)
