"""Every decision on its way out: first the audit log, then reports and callbacks. No record, no output."""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import TYPE_CHECKING

from steerguard.audit.events import ArtifactLoad, GuardError, PolicyLoad
from steerguard.audit.fields import ArtifactPin, BudgetOutcome, PolicyReference, RecordedBudget
from steerguard.audit.record import (
    DecisionContext,
    bypass_event,
    decimal,
    decision_event,
    model_reference,
    token_content,
)
from steerguard.errors import AuditError, SteerguardError
from steerguard.registry.store import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from steerguard.audit.log import AuditLog
    from steerguard.decision import Decision
    from steerguard.engine.finish import GuidedResult
    from steerguard.plan.plan import Plan


_RECORDABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
"""Names of errors that a record may carry; a foreign class can be called anything."""


class Recorder:
    """Writes what one guard decides; collects it for callers that asked."""

    def __init__(self, plan: Plan, audit: AuditLog, on_decision: Callable[[Decision], None] | None) -> None:
        self.audit = audit
        self._plan = plan
        self._on_decision = on_decision
        self._collected: ContextVar[tuple[list[Decision], ...]] = ContextVar("steerguard_collected", default=())
        self._distances: Mapping[str, tuple[float, str]] = {}
        self._evidence: Mapping[str, Evidence] = {}
        self._context = _context(plan)
        self._told: set[str] = set()
        """Digests of the other plans that the log knows of."""

    def loaded(
        self, distances: Mapping[str, tuple[float, str]], evidence: Mapping[str, Evidence] | None = None
    ) -> None:
        """Record that artifacts were verified and the policy put in force.

        Args:
            distances: by artifact digest the measured fingerprint distance and its limit.
            evidence: by artifact digest who vouches for it; what was said before when it is left out.
        """
        self._distances = distances
        self._evidence = self._evidence if evidence is None else evidence
        for pin in self._plan.artifacts:
            distance, limit = distances[pin.digest]
            vouched = self._evidence.get(pin.digest, Evidence())
            self.audit.record(
                ArtifactLoad(
                    artifact=ArtifactPin(ref=pin.reference, digest=pin.digest),
                    artifact_type=pin.type,
                    fingerprint_distance=decimal(distance),
                    fingerprint_limit=limit,
                    signed_by=vouched.signed_by,
                    vetting_level=vouched.vetting_level,
                )
            )
            if vouched.allowance is not None:
                self.bypassed("unsigned_artifact", vouched.allowance.reason, expires=vouched.allowance.expires)
        self._policy_loaded()

    def under(self, plan: Plan) -> Recorder:
        """Return a recorder of the same log for decisions under another plan, which the log learns of first.

        Raises:
            AuditError: the plan could not be recorded.
        """
        if plan is self._plan:
            return self
        other = copy(self)
        other._plan, other._context = plan, _context(plan)  # noqa: SLF001 - of this class
        if plan.policy_digest not in self._told:
            other._policy_loaded()  # noqa: SLF001 - of this class
            self._told.add(plan.policy_digest)
        return other

    def _policy_loaded(self) -> None:
        self.audit.record(
            PolicyLoad(
                policy=self._context.policy,
                plan=self._context.plan,
                mode=self._plan.mode,
                model=self._context.model,
                artifacts=self._context.artifacts,
            )
        )

    def use(self, audit: AuditLog) -> None:
        """Go on with another log, which first says what is in force."""
        previous, self.audit = self.audit, audit
        try:
            self.loaded(self._distances)
            self._told.clear()
        except AuditError:
            self.audit = previous
            raise

    def decided(self, decisions: Sequence[Decision], prompts: Sequence[tuple[int, ...]]) -> None:
        """Record what was decided about a batch before there is an answer: text may leave while it is generated.

        Such a record says of the answer that there is none yet; `release` writes the complete one under the same id.

        Raises:
            AuditError: a record could not be written.
        """
        for decision, prompt in zip(decisions, prompts, strict=True):
            self._record(decision, prompt, None)

    def release(self, result: GuidedResult) -> None:
        """Record every decision of a batch; only then may its text leave.

        Raises:
            AuditError: a record could not be written.
        """
        for decision, prompt, answer in zip(result.decisions, result.prompts, result.answers, strict=True):
            self._record(decision, prompt, answer)
            if decision.cause == "unrecognised_prompt" and decision.intended == "allow":
                allowed = self._plan.unrecognised_prompt
                self.bypassed(
                    "unrecognised_prompt", allowed.reason or "", request=decision.request, expires=allowed.expires
                )
        for decision in result.decisions:
            for reports in self._collected.get():
                reports.append(decision)
            if self._on_decision is not None:
                self._on_decision(decision)

    def _record(self, decision: Decision, prompt: tuple[int, ...], answer: tuple[int, ...] | None) -> None:
        limit = self._plan.max_extra_forward_tokens
        fell_back = decision.search is not None and decision.search.step in self._plan.fallback
        outcome: BudgetOutcome = "exceeded" if decision.cause == "budget" else "fallback" if fell_back else "within"
        self.audit.record(
            decision_event(
                decision,
                self._context,
                content=token_content(self.audit.key, prompt, answer),
                budget=RecordedBudget(outcome=outcome, max_extra_forward_tokens=limit),
            )
        )

    def bypassed(self, kind: str, reason: str, *, request: str | None = None, expires: str | None = None) -> None:
        """Record that something passed without guidance because someone asked for it."""
        self.audit.record(bypass_event(kind, reason, request=request, expires=expires, context=self._context))

    def failed(self, error: BaseException) -> None:
        """Record that a request failed; when even that fails, say so on the error that is about to be raised."""
        name = error.code if isinstance(error, SteerguardError) else type(error).__name__
        code = name if _RECORDABLE.fullmatch(name) else "Exception"
        event = GuardError(
            req=None,
            row=None,
            stage="audit" if isinstance(error, AuditError) else "generate",
            code=code,
            outcome="raise",
            policy=self._context.policy,
            plan=self._context.plan,
        )
        try:
            self.audit.record(event)
        except AuditError as audit_error:
            error.add_note(f"The audit log could not record this failure: {audit_error.code}.")

    @contextmanager
    def collect(self) -> Iterator[list[Decision]]:
        """Gather the decisions of every call that this thread makes inside the block."""
        reports: list[Decision] = []
        token = self._collected.set((*self._collected.get(), reports))
        try:
            yield reports
        finally:
            self._collected.reset(token)


def _context(plan: Plan) -> DecisionContext:
    return DecisionContext(
        policy=PolicyReference(name=plan.policy_name, version=plan.policy_version, digest=plan.policy_digest),
        plan=plan.digest,
        model=model_reference(plan.model),
        artifacts=tuple(ArtifactPin(ref=pin.reference, digest=pin.digest) for pin in plan.artifacts),
    )
