"""From one call to the events that account for it as a whole: its summary, the limits it reached, its failure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from steerguard.audit.records.events import BudgetExceeded, GuardError, GuardRequest
from steerguard.audit.records.fields import RecordedActions, RecordedUsage
from steerguard.errors import (
    ArtifactError,
    AuditError,
    CandidateMemoryError,
    CostModelError,
    GuidanceDidNotFireError,
    LockError,
    PlanError,
    PolicyError,
    RegistryError,
    TrustError,
)
from steerguard.load_records import code_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from steerguard.audit.records.fields import Stage
    from steerguard.audit.records.record import DecisionContext
    from steerguard.decision import Action, Decision
    from steerguard.engine.call_trace import CallTrace
    from steerguard.engine.exceeded import ExceededLimit

_STAGES: tuple[tuple[tuple[type[BaseException], ...], Stage], ...] = (
    ((AuditError,), "audit"),
    ((PolicyError, PlanError, ArtifactError, TrustError, LockError, RegistryError), "load"),
    ((GuidanceDidNotFireError, CostModelError, CandidateMemoryError), "guide"),
)
"""Errors that say by their class where a call failed; of others its trace says how far it had come."""


def request_event(decisions: Sequence[Decision], trace: CallTrace, context: DecisionContext) -> GuardRequest:
    """Sum up a call whose decisions are recorded.

    `duration_us` is from the start of the call to here. `guard_us` is what is left of it once everything that runs
    inside transformers' `generate` is taken away, its loop with all hooks and callbacks too, or the app's own pass in
    `forward`. So it counts checks, the plan of a policy for one request, passes over the prompt before its prefill,
    searches, decisions and their records, those that are written inside the loop too, and waiting for another thread
    under the compiled executor. It does not count what hooks read and change inside the loop, whose time cannot be told
    from the model's without waiting for the device. The pass of a `check` is the guard's as a whole.

    Args:
        decisions: of all rows of the call; at least one.
        trace: the call.
        context: the policy that it ran under.
    """
    duration, guard = trace.microseconds()
    return GuardRequest(
        req=trace.request,
        call=trace.kind,
        rows=len(decisions),
        mode=decisions[0].mode,
        policy=context.policy,
        plan=context.plan,
        model=context.model,
        intended=_counted(decision.intended for decision in decisions),
        applied=_counted(decision.applied for decision in decisions),
        usage=RecordedUsage(
            prompt_tokens=sum(decision.usage.prompt_tokens for decision in decisions),
            generated_tokens=sum(decision.usage.generated_tokens for decision in decisions),
            extra_forward_tokens=sum(decision.usage.extra_forward_tokens for decision in decisions),
            cached_tokens=sum(decision.usage.cached_tokens for decision in decisions),
        ),
        duration_us=duration,
        guard_us=guard,
    )


def exceeded_event(found: ExceededLimit, trace: CallTrace, context: DecisionContext) -> BudgetExceeded:
    """Say that a row reached a limit of the budget."""
    return BudgetExceeded(
        req=trace.request,
        row=found.row,
        policy=context.policy,
        plan=context.plan,
        limit=found.limit,
        allowed=found.allowed,
        spent=found.spent,
        then=found.then,
    )


def failure_event(error: BaseException, trace: CallTrace, context: DecisionContext) -> GuardError:
    """Say that a call failed: by the class of its error and how far the call had come, never by a message."""
    return GuardError(
        req=trace.request,
        row=trace.row,
        stage=next((stage for kinds, stage in _STAGES if isinstance(error, kinds)), trace.stage),
        code=code_of(error),
        outcome="raise",
        policy=context.policy,
        plan=context.plan,
    )


def _counted(actions: Iterable[Action]) -> RecordedActions:
    counts = Counter(actions)
    return RecordedActions(
        allow=counts["allow"], annotate=counts["annotate"], guide=counts["guide"], refuse=counts["refuse"]
    )
