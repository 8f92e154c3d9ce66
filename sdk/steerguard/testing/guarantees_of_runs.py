"""Guarantees 4 and 6 to 8: nothing stays behind, and what was done, what it cost and what failed is told as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from steerguard.models.blocks import decoder_blocks
from steerguard.testing.guarantees import broken
from steerguard.testing.guarantees_of_rows import place_name
from steerguard.testing.model_state import state_difference, state_of
from steerguard.testing.trial import OPEN
from steerguard.testing.watched_run import differing, passed_states, watched_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from steerguard.decision import Decision
    from steerguard.plan.plan import Plan
    from steerguard.testing.trial import Trial
    from steerguard.testing.watched_run import PassedStates


class _AppError(Exception):
    """What the code of an app raises inside a forward pass."""


def no_trace(trial: Trial, threshold: float) -> None:
    """Prove guarantee 4: after a call, a call that failed, and the guard itself, the model is what it was."""
    batch = trial.batch()
    # The first generation of a model may fill caches of transformers itself.
    watched_run(trial.model, batch, pad=trial.pad)
    plain = state_of(trial.model)
    with trial.guarded(threshold) as wrapped:
        inside = state_of(wrapped)
        watched_run(wrapped, batch, pad=trial.pad)
        _require_state(inside, wrapped, "after a call")
        for failing in (0, 2):
            _fail_in_pass(wrapped, batch, trial.pad, failing)
            _require_state(inside, wrapped, f"after an exception in pass {failing}")
    _require_state(plain, trial.model, "after the guard was taken off")


def told_as_done(trial: Trial, threshold: float) -> None:
    """Prove guarantees 6 and 7 by comparing what the blocks were given, with and without guidance, token by token."""
    batch = trial.batch()
    with passed_states(trial.model) as before:
        plain = watched_run(trial.model, batch, pad=trial.pad)
    with trial.guarded(threshold) as wrapped, passed_states(trial.model) as after:
        plan = wrapped.guard.plan
        acts = bool(wrapped.guard.engine.program.interventions)
        run = watched_run(wrapped, batch, pad=trial.pad, forced=plain.tokens)
    extra = _require_cost(plan, batch["attention_mask"], run.decisions, before, after)
    opened = [decision.row for decision in run.decisions if decision.applied == "guide"]
    if acts and opened:
        _require_changes(plan, run.decisions, list(_changes(before, after, extra)), _zeros(before))


def not_finite_is_refused(trial: Trial) -> None:
    """Prove guarantee 8: a row whose hidden states are not finite is refused, in prefill and decode, and no other."""
    batch, blocks = trial.batch(), decoder_blocks(trial.model)
    with trial.guarded(OPEN) as wrapped:
        clean = watched_run(wrapped, batch, pad=trial.pad).decisions
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
                decisions = watched_run(wrapped, batch, pad=trial.pad).decisions
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


def _changes(before: PassedStates, after: PassedStates, extra: int) -> Iterator[Tensor]:
    """Yield per place and row in how many columns the states differ, the passes of one run after the other."""
    for plain, guided in zip(before.places, after.places, strict=True):
        counts = [differing(one, other).sum(dim=1) for one, other in zip(plain, guided[extra:], strict=True)]
        yield torch.stack(counts).sum(dim=0)


def _zeros(states: PassedStates) -> list[Tensor]:
    """Return per place and row how many states are all zeros, as an embedding may be: an operator keeps them so."""
    return [
        torch.stack([(state == 0).all(dim=-1).sum(dim=1).cpu() for state in place]).sum(dim=0)
        for place in states.places
    ]


def _require_changes(plan: Plan, decisions: tuple[Decision, ...], changes: list[Tensor], zeros: list[Tensor]) -> None:
    """Require that the first changed place is the plan's, and that as many positions changed there as are told."""
    step = plan.steps[0]
    first = min(block + (point == "resid_post") for block in step.blocks for point in step.points)
    place = next((number for number, counts in enumerate(changes) if bool(counts.any())), None)
    names = [place_name(number, len(changes)) for number in range(len(changes))]
    own_gates = bool(step.read_blocks)
    if place is None and own_gates and not any(decision.doses for decision in decisions):
        return
    if place is None or place < first or (place > first and not own_gates):
        raise broken(
            6,
            "states were first changed elsewhere than the plan says",
            expected=names[first],
            found="nowhere" if place is None else names[place],
            where=f"step `{step.id}`",
        )
    for decision in decisions:
        doses = [dose for dose in decision.doses if dose.step == step.id]
        acting = [dose for dose in doses if place - ("resid_post" in step.points) in dose.open_blocks or not own_gates]
        told = sum(dose.positions // (len(dose.open_blocks) * len(step.points)) for dose in acting)
        found = int(changes[place][decision.row])
        if not found <= told <= found + int(zeros[place][decision.row]):
            raise broken(
                6,
                "other positions were changed than the decision tells",
                expected=f"{told} positions",
                found=f"{found} positions",
                where=f"row {decision.row}, {names[place]}",
            )
