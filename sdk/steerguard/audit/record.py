"""From data to events: pure functions that turn a decision and its context into the body of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from steerguard.audit.events import ArtifactRevoked, GuardBypass, GuardDecision
from steerguard.audit.fields import (
    LABEL_LENGTH,
    ArtifactPin,
    ModelReference,
    PolicyReference,
    RecordedBudget,
    RecordedContent,
    RecordedDose,
    RecordedError,
    RecordedReading,
    RecordedSearch,
    RecordedThreshold,
    RecordedUsage,
    escaped,
    escaped_label,
)
from steerguard.audit.keys import ContentKey
from steerguard.audit.pipeline import refused_fields
from steerguard.decision import Decision, Dose, Reading, SearchReport, Threshold
from steerguard.errors import AuditError
from steerguard.models.facts import ModelFacts

if TYPE_CHECKING:
    from steerguard.trust.findings import Finding, WatchedArtifact


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionContext:
    """What stays the same for all decisions of one guard."""

    policy: PolicyReference
    plan: str
    """Digest of the compiled plan, `sha256:<hex>`."""
    model: ModelReference
    artifacts: tuple[ArtifactPin, ...]


def model_reference(facts: ModelFacts) -> ModelReference:
    """Describe the model; of a name that is too long once escaped, the end is kept."""
    return ModelReference(name=escaped(facts.name)[-LABEL_LENGTH:], architecture=facts.architecture, dtype=facts.dtype)


def decision_event(
    decision: Decision,
    context: DecisionContext,
    *,
    content: RecordedContent,
    budget: RecordedBudget | None = None,
    err: RecordedError | None = None,
) -> GuardDecision:
    """Turn one decision into the event that accounts for it.

    Raises:
        AuditError: a value of the decision has no place in the closed schema, for example a threshold that is not finite.
    """
    try:
        return GuardDecision(
            req=decision.request,
            row=decision.row,
            policy=context.policy,
            plan=context.plan,
            model=context.model,
            artifacts=context.artifacts,
            mode=decision.mode,
            readings=tuple(_reading(reading) for reading in decision.readings),
            rules=decision.rules,
            cause=decision.cause,
            intended=decision.intended,
            applied=decision.applied,
            doses=tuple(_dose(dose) for dose in decision.doses),
            usage=RecordedUsage(
                prompt_tokens=decision.usage.prompt_tokens,
                generated_tokens=decision.usage.generated_tokens,
                extra_forward_tokens=decision.usage.extra_forward_tokens,
            ),
            budget=budget,
            template_cut=decision.template_cut,
            content=content,
            err=err,
            search=None if decision.search is None else _search(decision.search),
        )
    except ValidationError as error:
        raise refused_fields(error, where=GuardDecision.event_type) from None


def token_content(key: ContentKey | None, prompt: Sequence[int], answer: Sequence[int] | None) -> RecordedContent:
    """Describe one row by its token ids, without padding; with `key` None only sizes are kept.

    Raises:
        AuditError: an id is not an integer from 0 to 2^32 - 1.
    """
    return RecordedContent.model_validate(
        {
            "form": "tokens",
            "in": None if key is None else key.tag_tokens(prompt),
            "out": None if key is None or answer is None else key.tag_tokens(answer),
            "in_chars": None,
            "out_chars": None,
            "in_tokens": len(prompt),
            "out_tokens": None if answer is None else len(answer),
        }
    )


def text_content(key: ContentKey | None, prompt: str, answer: str | None) -> RecordedContent:
    """Describe one row by its texts; with `key` None only sizes are kept."""
    return RecordedContent.model_validate(
        {
            "form": "text",
            "in": None if key is None else key.tag_text(prompt),
            "out": None if key is None or answer is None else key.tag_text(answer),
            "in_chars": len(prompt),
            "out_chars": None if answer is None else len(answer),
            "in_tokens": None,
            "out_tokens": None,
        }
    )


def bypass_event(
    kind: str,
    reason: str,
    *,
    request: str | None = None,
    expires: str | None = None,
    context: DecisionContext | None = None,
) -> GuardBypass:
    """Say that something passed without full guidance, and why that was allowed.

    Raises:
        AuditError: the reason is too long or another value has no place in the closed schema.
    """
    try:
        return GuardBypass.model_validate(
            {
                "req": request,
                "kind": kind,
                "reason": escaped_label(reason),
                "expires": expires,
                "policy": None if context is None else context.policy,
                "plan": None if context is None else context.plan,
            }
        )
    except ValidationError as error:
        raise refused_fields(error, where=GuardBypass.event_type) from None


def revoked_event(artifact: WatchedArtifact, finding: Finding | None) -> ArtifactRevoked:
    """Say what speaks against an artifact that a running guard uses; without a finding, that nothing does any more."""
    pin = ArtifactPin(ref=artifact.reference, digest=artifact.digest)
    if finding is None:
        return ArtifactRevoked(
            artifact=pin, registry=None, state="restored", reason=None, action="none", sequence=None, allowed=None
        )
    return ArtifactRevoked(
        artifact=pin,
        registry=finding.registry,
        state=finding.state,
        reason=finding.reason,
        action=finding.action,
        sequence=finding.sequence,
        allowed=None if finding.allowed is None else escaped(finding.allowed),
    )


def decimal(number: float) -> str:
    """Return `repr` of a finite float: the shortest decimal string that reads back to the same number.

    Raises:
        AuditError: the number is infinite or not a number.
    """
    text = repr(float(number))
    if text[-1] in "fn":
        raise AuditError("A number for the audit log is not finite.", expected="a finite number", found=text)
    return text


def _reading(reading: Reading) -> RecordedReading:
    return RecordedReading(
        source=reading.source,
        score=None if reading.score is None else decimal(reading.score),
        thresholds=tuple(_threshold(threshold) for threshold in reading.thresholds),
        token=reading.token,
        tolerance=decimal(reading.tolerance),
        near=reading.near,
    )


def _threshold(threshold: Threshold) -> RecordedThreshold:
    return RecordedThreshold(
        rule=threshold.rule,
        bound=threshold.bound,
        value=decimal(threshold.value),
        fpr=threshold.fpr,
        place=threshold.place,
    )


def _search(search: SearchReport) -> RecordedSearch:
    return RecordedSearch(
        step=search.step,
        method=search.method,
        outcome=search.outcome,
        cost=None if search.cost is None else decimal(search.cost),
        cost_budget=decimal(search.cost_budget),
        cost_budget_fpr=search.cost_budget_fpr,
        plain_cost=None if search.plain_cost is None else decimal(search.plain_cost),
        kept_tokens=search.kept_tokens,
        candidates=search.candidates,
        candidates_drawn=search.candidates_drawn,
        retries=search.retries,
        halvings=search.halvings,
        forward_tokens=search.forward_tokens,
        late_ms=search.late_ms,
    )


def _dose(dose: Dose) -> RecordedDose:
    return RecordedDose(
        step=dose.step,
        method=dose.method,
        open_blocks=dose.open_blocks,
        coefficient=dose.coefficient,
        positions=dose.positions,
        expected_positions=dose.expected_positions,
    )
