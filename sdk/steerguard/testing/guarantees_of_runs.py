"""Guarantees 4 and 6 to 8: nothing stays behind, and what was done, what it cost and what failed is told as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerguard.guidance.intervention import VerdictGate
from steerguard.models.blocks import decoder_blocks
from steerguard.testing.guarantees import broken
from steerguard.testing.model_state import state_difference, state_of
from steerguard.testing.told_positions import require_told, told_places
from steerguard.testing.trial import OPEN
from steerguard.testing.watched_run import FEW_STEPS, passed_states, watched_run

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.decision import Decision
    from steerguard.engine.program import Program
    from steerguard.plan.plan import Plan
    from steerguard.testing.trial import Trial
    from steerguard.testing.watched_run import PassedStates


class _AppError(Exception):
    """What the code of an app raises inside a forward pass."""


def no_trace(trial: Trial, threshold: float) -> None:
    """Prove guarantee 4: after a call, a call that failed, and the guard itself, the model is what it was."""
    batch = trial.batch()
    # The first generation of a model may fill caches of transformers itself.
    watched_run(trial.model, batch, pad=trial.pad, steps=1)
    plain = state_of(trial.model)
    with trial.guarded(threshold) as wrapped:
        inside = state_of(wrapped)
        watched_run(wrapped, batch, pad=trial.pad)
        _require_state(inside, wrapped, "after a call")
        for failing in (0, 2):
            _fail_in_pass(wrapped, batch, trial.pad, failing)
            _require_state(inside, wrapped, f"after an exception in pass {failing}")
    _require_state(plain, trial.model, "after the guard was taken off")


def told_as_done(trial: Trial, threshold: float, row_tolerance: float) -> None:
    """Prove guarantees 6 and 7 by comparing what the blocks were given, with and without guidance, token by token."""
    batch = trial.batch()
    with passed_states(trial.model) as before:
        plain = watched_run(trial.model, batch, pad=trial.pad)
    with trial.guarded(threshold) as wrapped, passed_states(trial.model) as after:
        program = wrapped.guard.engine.program
        run = watched_run(wrapped, batch, pad=trial.pad, forced=plain.tokens)
    mask, fed_back = batch["attention_mask"], plain.tokens.shape[1] - 1
    extra = _require_cost(program.plan, mask, run.decisions, before, after)
    _require_doses(program, run.decisions)
    _require_reads(program, run.decisions, fed_back)
    told = told_places(program.interventions, run.decisions, mask, fed_back=fed_back, places=len(before.places))
    require_told(told, run.decisions, before, after, extra=extra, row_by_row=row_tolerance == 0.0)


def not_finite_is_refused(trial: Trial) -> None:
    """Prove guarantee 8: a row whose hidden states are not finite is refused, in prefill and decode, and no other."""
    batch, blocks = trial.batch(), decoder_blocks(trial.model)
    with trial.guarded(OPEN) as wrapped:
        clean = watched_run(wrapped, batch, pad=trial.pad, steps=FEW_STEPS).decisions
    row = next((decision.row for decision in clean if decision.doses), 0)
    for step, words in ((0, "prefill"), (2, "decode")):
        if step and not clean[row].doses:
            # A row that nothing changes after its prompt is the model's own.
            return
        with trial.guarded(OPEN) as wrapped:
            # Passes before the prefill shift the steps that follow.
            first = step + (wrapped.guard.plan.cost.passes - 1 if step else 0)
            poison = _Poison(row=row, first=first)
            handle = (blocks[-1] if step else blocks[0]).register_forward_hook(poison)
            try:
                decisions = watched_run(wrapped, batch, pad=trial.pad, steps=FEW_STEPS).decisions
            finally:
                handle.remove()
        for before, decision in zip(clean, decisions, strict=True):
            wanted = ("refuse", "non_finite") if decision.row == row else (before.applied, before.cause)
            if (decision.applied, decision.cause) != wanted:
                raise broken(
                    8,
                    f"row {row} was given states that are not finite",
                    expected=" for the cause ".join(wanted),
                    found=f"{decision.applied} for the cause {decision.cause}",
                    where=f"row {decision.row}, {words}",
                )


@dataclass(slots=True)
class _Poison:
    """A hook that makes the states of one row NaN from a pass on."""

    row: int
    first: int
    seen: int = 0

    def __call__(self, _module: Any, _arguments: Any, output: Any) -> Any:
        self.seen += 1
        if self.seen <= self.first:
            return None
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[self.row] = float("nan")
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _fail_in_pass(wrapped: Any, batch: dict[str, Tensor], pad: int, failing: int) -> None:
    seen = [0]

    def fail(*_: Any) -> None:
        seen[0] += 1
        if seen[0] > failing:
            raise _AppError

    handle = decoder_blocks(wrapped)[-1].register_forward_hook(fail)
    try:
        watched_run(wrapped, batch, pad=pad)
    except _AppError:
        return
    finally:
        handle.remove()
    raise broken(
        4,
        "an exception inside a forward pass was swallowed",
        expected="the exception",
        found="an answer",
        where=f"pass {failing}",
    )


def _require_state(before: dict[str, Any], model: Any, when: str) -> None:
    difference = state_difference(before, state_of(model))
    if difference is not None:
        raise broken(4, "something stayed on the model", expected="the state of before", found=difference, where=when)
    hooked = model.guard.hooked_blocks if hasattr(model, "guard") else ()
    if hooked:
        raise broken(4, "hooks are still counted", expected="none", found=f"blocks {hooked}", where=when)


def _require_cost(
    plan: Plan, mask: Tensor, decisions: tuple[Decision, ...], before: PassedStates, after: PassedStates
) -> int:
    """Require that the forward tokens of guidance are those stated; return how many passes came before the prefill."""
    for block, (plain, guided) in enumerate(zip(before.passes, after.passes, strict=True)):
        if guided - plain != after.passes[0] - before.passes[0]:
            raise broken(
                7,
                "a block ran more often than the model",
                expected=f"{plain + after.passes[0] - before.passes[0]} passes",
                found=f"{guided} passes",
                where=f"block {block}",
            )
    extra = after.passes[0] - before.passes[0]
    width = mask.shape[1]
    tokens = [int(row) for row in mask.sum(dim=1).tolist()]
    for number, state in enumerate(after.places[0][:extra]):
        if state.shape[1] != width:
            raise broken(
                7,
                "a pass before the prefill has another width than the prompt",
                expected=f"{width} columns",
                found=f"{state.shape[1]} columns",
                where=f"pass {number}",
            )
    for row, decision in enumerate(decisions):
        counted, stated = extra * tokens[row], decision.usage.extra_forward_tokens
        bound = plan.cost.extra_forward_tokens(tokens[row])
        if counted != stated or stated > bound:
            raise broken(
                7,
                "the extra forward tokens are not those stated",
                expected=f"{stated}, and at most {bound} by the plan",
                found=f"{counted} counted",
                where=f"row {row}",
            )
    return extra


def _require_doses(program: Program, decisions: tuple[Decision, ...]) -> None:
    """Require that a step that changes something has acted in every row that it guides, at every block without a gate.

    A step with coefficient 0 is left out.
    """
    step = program.plan.steps[0]
    if not step.blocks or float(step.coefficient) == 0.0:
        return
    guided = [decision for decision in decisions if decision.applied == "guide"]
    if not guided:
        raise broken(6, "no row was guided", expected="some rows", found="none", where=f"step `{step.id}`")
    always = {item.block for item in program.interventions if isinstance(item.gate, VerdictGate)}
    for decision in guided:
        acted = {block for dose in decision.doses if dose.step == step.id for block in dose.open_blocks}
        if not always <= acted:
            raise broken(
                6,
                "a row that is guided has no dose",
                expected=f"a dose at blocks {sorted(always)}",
                found=f"blocks {sorted(acted)}",
                where=f"row {decision.row}, step `{step.id}`",
            )


def _require_reads(program: Program, decisions: tuple[Decision, ...], fed_back: int) -> None:
    """Require that a step that reads answers has read every answer that it watches."""
    step = program.plan.steps[0]
    if not step.answer_blocks:
        return
    if not any(watch.reads_after(count) for watch in program.watches for count in range(1, fed_back + 1)):
        raise broken(
            6,
            "a step that reads answers reads none of the trial",
            expected=f"a read after at most {fed_back} generated tokens",
            found="none",
            where=f"step `{step.id}`",
        )
    for decision in decisions:
        watched = decision.applied == "guide" or decision.cause == "answer_reading"
        if watched and not any(entry.source == step.id and entry.token is not None for entry in decision.readings):
            raise broken(
                6,
                "an answer that is watched was not read",
                expected="a reading at a generated token",
                found="none",
                where=f"row {decision.row}, step `{step.id}`",
            )
