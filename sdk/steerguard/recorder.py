"""Every decision on its way out: first the audit log, then reports and callbacks. No record, no output."""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from typing import TYPE_CHECKING

from steerguard.audit.privacy.content import require_content, row_content
from steerguard.audit.records.events import ArtifactLoad, PolicyLoad, PolicySwap
from steerguard.audit.records.fields import ArtifactPin, BudgetOutcome, PolicyReference, RecordedBudget
from steerguard.audit.records.record import DecisionContext, bypass_event, decimal, decision_event, model_reference
from steerguard.call_records import exceeded_event, failure_event, request_event
from steerguard.errors import SteerguardError
from steerguard.load_records import is_not_verified, known_artifacts, not_verified, noted, reference_of, rejected
from steerguard.registry.store import Evidence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from steerguard.audit.log import AuditLog
    from steerguard.decision import Decision
    from steerguard.engine.call_trace import CallTrace
    from steerguard.engine.finish import GuidedResult
    from steerguard.plan.plan import Plan
    from steerguard.policy.document import Policy

UNSAFE_PASSTHROUGH = "streaming strategy unsafe_passthrough: text leaves before its decision is recorded"
"""The reason of its bypass: the policy states none."""


class Recorder:
    """Writes what one guard decides; collects it for callers that asked.

    Args:
        plan: the plan in force.
        audit: where to.
        on_decision: called with each decision, once all records of its call are written.
        text: decodes token ids, for logs that redact or encrypt content; None where nothing decodes.

    Raises:
        AuditKeyError: the policy asks for content that the log cannot keep as it says.
    """

    def __init__(
        self,
        plan: Plan,
        audit: AuditLog,
        on_decision: Callable[[Decision], None] | None,
        *,
        text: Callable[[Sequence[int]], str] | None = None,
    ) -> None:
        self.audit = audit
        self._content = require_content(audit, plan.audit_content)
        self._text = text
        self._plan = plan
        self._on_decision = on_decision
        self._collected: ContextVar[tuple[list[Decision], ...]] = ContextVar("steerguard_collected", default=())
        self._distances: Mapping[str, tuple[float, str]] = {}
        self._evidence: Mapping[str, Evidence] = {}
        self._context = _context(plan)
        self._told: set[tuple[int, str]] = set()
        """Policies that the log of each process knows of, by process id and digest: a forked child has its own log."""

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
        """Return a recorder for decisions under a plan; the log of this process learns first what it does not know.

        A policy for one request says the same of content as the one in force, or it does not tighten it.

        Raises:
            AuditError: the plan could not be recorded.
        """
        if (os.getpid(), self._plan.policy_digest) not in self._told:
            self.loaded(self._distances)
        if plan is self._plan:
            return self
        other = copy(self)
        other._plan, other._context = plan, _context(plan)  # noqa: SLF001 - of this class
        known = (os.getpid(), plan.policy_digest)
        if known not in self._told:
            self._swapped(other._context, plan)  # noqa: SLF001 - of this class
            self._told.add(known)
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
        self._told.add((os.getpid(), self._plan.policy_digest))

    def _swapped(self, context: DecisionContext, plan: Plan) -> None:
        self.audit.record(
            PolicySwap(
                scope="request",
                policy=context.policy,
                plan=context.plan,
                previous_policy=self._context.policy,
                previous_plan=self._context.plan,
                mode=plan.mode,
                model=context.model,
                artifacts=context.artifacts,
            )
        )

    def refused(self, error: SteerguardError, document: Policy | None) -> None:
        """Record that the policy of a request is refused, before its error is raised.

        Args:
            error: why; it gets a note when it cannot be recorded.
            document: the policy; None where it could not be read.
        """
        self.not_verified(error, document, always=False)
        policy = None if document is None else reference_of(document)
        event = rejected(error, scope="request", policy=policy, in_force=self._context)
        noted(error, lambda: self.audit.record(event))

    def not_verified(self, error: SteerguardError, document: Policy | None = None, *, always: bool = True) -> None:
        """Record that an artifact was not verified, or that the weights do not fit any more, before that is raised.

        Args:
            error: why; it gets a note when it cannot be recorded.
            document: names artifacts beside those of the plan in force.
            always: whether every error is one of this kind; else it is told from its class.
        """
        known = known_artifacts(document, plans=[self._plan])
        if always or is_not_verified(error, known):
            noted(error, lambda: self.audit.record(not_verified(error, known)))

    def use(self, audit: AuditLog) -> None:
        """Go on with another log, which first says what is in force.

        Raises:
            AuditKeyError: the policy asks for content that the log cannot keep as it says.
            AuditError: the log takes no record; the old one stays in use.
        """
        content = require_content(audit, self._plan.audit_content)
        previous, self.audit = (self.audit, self._content), audit
        try:
            self._content = content
            self.loaded(self._distances)
            self._told = {(os.getpid(), self._plan.policy_digest)}
        except BaseException:
            # An interrupt too: the new log would lack what is in force.
            self.audit, self._content = previous
            raise

    def decided(self, decisions: Sequence[Decision], prompts: Sequence[tuple[int, ...]]) -> None:
        """Record what was decided about a batch before there is an answer: text may leave while it is generated.

        Such a record says of the answer that there is none yet; `release` writes the complete one under the same id.

        Raises:
            AuditError: a record could not be written.
        """
        for decision, prompt in zip(decisions, prompts, strict=True):
            self._record(decision, prompt, None)

    def streamed(self, trace: CallTrace) -> None:
        """Record, before a streamed call begins, that its policy lets text leave before its decision is recorded.

        Raises:
            AuditError: the record could not be written; nothing may be streamed.
        """
        if self._plan.streaming == "unsafe_passthrough":
            self.bypassed("unsafe_passthrough", UNSAFE_PASSTHROUGH, request=trace.request)

    def release(self, result: GuidedResult, trace: CallTrace) -> None:
        """Record every decision of a call and then the call; only then may its output and its reports leave.

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
        for found in result.exceeded:
            self.audit.record(exceeded_event(found, trace, self._context))
        self.audit.record(request_event(result.decisions, trace, self._context))
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
                content=row_content(
                    self.audit, decision.request, decision.row, prompt, answer, text=self._text, mode=self._content
                ),
                budget=RecordedBudget(outcome=outcome, max_extra_forward_tokens=limit),
            )
        )

    def bypassed(self, kind: str, reason: str, *, request: str | None = None, expires: str | None = None) -> None:
        """Record that something passed without guidance because someone asked for it."""
        self.audit.record(bypass_event(kind, reason, request=request, expires=expires, context=self._context))

    def failed(self, error: BaseException, trace: CallTrace) -> None:
        """Record that a call failed; when even that fails, say so on the error that is about to be raised."""
        event = failure_event(error, trace, self._context)
        noted(error, lambda: self.audit.record(event))

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
