"""What a method binds is what its footprint declared: the plan's cost, its budget and tightening all rest on that."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, assert_never

from steerguard.errors import UnsupportedPlanError
from steerguard.guidance.intervention import (
    Ablate,
    Affine,
    ByPhase,
    ByStep,
    Clamp,
    FirstSteps,
    LinearGate,
    Operated,
    Phases,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steerguard.guidance.answer_watch import AnswerWatch
    from steerguard.guidance.intervention import Intervention, PositionRule, Schedule
    from steerguard.plan.plan import PlannedStep


class Reach(NamedTuple):
    """How many tokens of each phase a position rule names: 0.0 for none, infinity for all."""

    before: float = 0.0
    """Of the prompt before the end of the generation prompt."""
    last: float = 0.0
    """The end of the generation prompt."""
    prefilled: float = 0.0
    """Of a prefilled answer, from its first token on."""
    generated: float = 0.0
    """Of the generated tokens, from the first one on."""

    def within(self, other: Reach) -> bool:
        """Return whether another rule names every token that this one names."""
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


_ALL = math.inf
_NAMED = {
    "all": Reach(before=_ALL, last=_ALL, prefilled=_ALL, generated=_ALL),
    "last_prompt_token_and_decode": Reach(last=_ALL, prefilled=_ALL, generated=_ALL),
    "decode": Reach(generated=_ALL),
    "prefill": Reach(before=_ALL, last=_ALL, prefilled=_ALL),
}


def reach_of(positions: PositionRule) -> Reach:
    """Return the tokens that a position rule names."""
    if isinstance(positions, FirstSteps):
        return Reach(generated=positions.steps)
    if isinstance(positions, Phases):
        answer = 0.0 if not positions.decode else _ALL if positions.steps is None else positions.steps
        return Reach(
            before=_ALL if positions.prompt else 0.0,
            last=_ALL if positions.last else 0.0,
            prefilled=answer,
            generated=answer,
        )
    return _NAMED[positions]


def check_declared(steps: Sequence[PlannedStep], interventions: Sequence[Intervention]) -> None:
    """Require that every planned step does what its footprint declared: nothing else, and no less.

    A step whose coefficient is 0 may bind nothing.

    Raises:
        UnsupportedPlanError: names what was declared and what was bound.
    """
    known = {step.id for step in steps}
    for item in interventions:
        if item.step not in known:
            expected = f"one of {', '.join(sorted(known)) or 'no entries'}"
            raise _other(item.step, "the entry", expected=expected, found=item.step, where=item.source)
    for step in steps:
        bound = [item for item in interventions if item.step == step.id]
        for item in bound:
            _check_item(step, item)
        if bound or (step.blocks and float(step.coefficient) != 0.0):
            _check_complete(step, bound)


def check_watches(steps: Sequence[PlannedStep], watches: Sequence[AnswerWatch]) -> None:
    """Require that answers are read at the blocks that footprints declared, and compared with the planned threshold.

    Raises:
        UnsupportedPlanError: names what was declared and what was bound.
    """
    known = {step.id for step in steps}
    for watch in watches:
        if watch.step not in known:
            expected = f"one of {', '.join(sorted(known)) or 'no entries'}"
            raise _other(watch.step, "the entry", expected=expected, found=watch.step, where="an answer watch")
    # What searches read is checked where they are bound.
    for step in (step for step in steps if step.search is None):
        bound = [watch for watch in watches if watch.step == step.id]
        parts = [pair for watch in bound for pair in zip(watch.probe.blocks, watch.probe.over, strict=True)]
        blocks = sorted({block for block, over in parts if over == "end"})
        where = f"answer watches of `{step.id}`"
        if blocks != sorted(step.answer_blocks):
            expected = f"blocks {_listed(step.answer_blocks)}"
            what = "the blocks that are read at generated tokens"
            raise _other(step.id, what, expected=expected, found=f"blocks {_listed(sorted(blocks))}", where=where)
        kept = sum(watch.in_a_row - 1 for watch in bound)
        if kept > step.kept_reads:
            expected = f"at most {step.kept_reads} kept reads"
            raise _other(step.id, "the reads that a row keeps", expected=expected, found=kept, where=where)
        for watch in bound:
            if step.threshold is not None and watch.threshold != step.threshold.value:
                expected, found = f"{step.threshold.value!r}", f"{watch.threshold!r}"
                raise _other(step.id, "the threshold", expected=expected, found=found, where=where)
            undeclared = sorted(set(watch.opens) - set(step.spec.opened_entries()))
            if undeclared:
                expected = _listed(step.spec.opened_entries())
                what = "the entries that are opened"
                raise _other(step.id, what, expected=expected, found=_listed(undeclared), where=where)


def _check_item(step: PlannedStep, item: Intervention) -> None:
    """Require that one intervention stays within what its step declared."""

    def require(what: str, holds: bool, expected: object, found: object) -> None:
        if not holds:
            raise _other(step.id, what, expected=expected, found=found, where=item.source)

    schedule = item.schedule
    require("the point", item.point in step.points, _listed(step.points), item.point)
    require("the block", item.block in step.blocks, f"blocks {_listed(step.blocks)}", f"block {item.block}")
    operator = _operator_of(schedule)
    require("the operator", operator == step.operator, step.operator, operator)
    kind = "by_phase" if isinstance(schedule, ByPhase) else "by_step" if isinstance(schedule, ByStep) else "constant"
    require("the schedule", kind == step.schedule, step.schedule, kind)
    unread = isinstance(item.gate, LinearGate) and item.block not in step.read_blocks
    require("the gate", not unread, f"gates at blocks {_listed(step.read_blocks)}", f"a gate at block {item.block}")
    spared, excluded = step.modality_tokens, item.modality_tokens
    require("what becomes of modality tokens", excluded == spared, spared, excluded)
    if isinstance(schedule, ByStep):
        count, most = len(schedule.steps), step.schedule_steps or 0
        require("the number of steps", count <= most, f"at most {most} steps", f"{count} steps")
    elif not isinstance(schedule, ByPhase):
        within = reach_of(schedule.positions).within(_declared_reach(step))
        require("the positions", within, _declared_words(step), _words(schedule.positions))
    if isinstance(schedule, Operated) and isinstance(schedule.operator, Affine):
        rank, most = schedule.operator.inputs.shape[-1], step.rank or 0
        require("the rank", rank <= most, f"at most rank {most}", f"rank {rank}")


def _check_complete(step: PlannedStep, bound: Sequence[Intervention]) -> None:
    """Require that together the interventions of a step act everywhere that the step declared."""
    where = f"guidance entry `{step.id}`"
    blocks = {item.block for item in bound}
    if blocks != set(step.blocks):
        expected, found = f"blocks {_listed(step.blocks)}", f"blocks {_listed(sorted(blocks))}"
        raise _other(step.id, "the blocks", expected=expected, found=found, where=where)
    points = {item.point for item in bound}
    if points != set(step.points):
        raise _other(step.id, "the points", expected=_listed(step.points), found=_listed(sorted(points)), where=where)
    rules = [item.schedule.positions for item in bound if not isinstance(item.schedule, (ByPhase, ByStep))]
    if not rules:
        return
    reaches = [reach_of(rule) for rule in rules]
    together = Reach(*(max(counts) for counts in zip(*reaches, strict=True)))
    if together != _declared_reach(step):
        found = _listed(sorted({_words(rule) for rule in rules}))
        raise _other(step.id, "the positions", expected=_declared_words(step), found=found, where=where)


def _declared_reach(step: PlannedStep) -> Reach:
    """Return the tokens that the footprint of a step names."""
    if step.positions == "first_steps" and step.first_steps is not None:
        return Reach(generated=step.first_steps)
    if step.positions not in _NAMED:
        raise UnsupportedPlanError(
            f"The footprint of guidance entry `{step.id}` names no position rule that the engine knows.",
            expected=f"one of {', '.join(_NAMED)}, or first_steps with their number",
            found=step.positions,
            where=f"guidance entry `{step.id}`",
            next_step="State `positions` in the footprint of the method.",
        )
    return _NAMED[step.positions]


def _operator_of(schedule: Schedule) -> str:
    if not isinstance(schedule, Operated):
        return "add"
    match schedule.operator:
        case Ablate():
            return "ablate"
        case Clamp():
            return "clamp"
        case Affine():
            return "affine"
        case unreachable:
            assert_never(unreachable)


def _declared_words(step: PlannedStep) -> str:
    return f"first_steps: {step.first_steps}" if step.positions == "first_steps" else str(step.positions)


def _words(positions: PositionRule) -> str:
    """Return a position rule as a footprint or a policy names it."""
    if isinstance(positions, FirstSteps):
        return f"first_steps: {positions.steps}"
    if isinstance(positions, Phases):
        named = {"prompt": positions.prompt, "last": positions.last, "decode": positions.decode}
        return f"phases {_listed(name for name, there in named.items() if there)}"
    return positions


def _listed(entries: Iterable[object]) -> str:
    return ", ".join(str(entry) for entry in entries) or "none"


def _other(step: str, what: str, *, expected: object, found: object, where: str) -> UnsupportedPlanError:
    return UnsupportedPlanError(
        f"Guidance entry `{step}` was bound to act otherwise than its plan says, in {what}.",
        expected=expected,
        found=found,
        where=where,
        next_step="Declare in the footprint of the method what its binder returns.",
    )
