"""From data to events: pure functions that turn a decision and its context into the body of a record."""

from __future__ import annotations

import functools
import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import ValidationError

from steerguard.audit.records.allow_list import refused_fields
from steerguard.audit.records.events import ArtifactRevoked, GuardBypass, GuardDecision
from steerguard.audit.records.fields import (
    LABEL_LENGTH,
    ArtifactPin,
    ModelReference,
    PolicyReference,
    RecordedBudget,
    RecordedContent,
    RecordedError,
    RecordedThreshold,
    escaped,
    escaped_label,
)
from steerguard.decision import Decision, Dose, Reading, SearchReport, Threshold
from steerguard.errors import AuditError
from steerguard.models.facts import ModelFacts

if TYPE_CHECKING:
    from steerguard.trust.findings import Finding, WatchedArtifact


_STATED_IN_DOCUMENTS: Final = frozenset({"unrecognised_prompt", "unsigned_artifact"})
"""Bypasses whose reason a document states, which limits its length; reasons of callers are limited here."""
_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
"""`name` or `organisation/name`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionContext:
    """What stays the same for all decisions of one guard."""

    policy: PolicyReference
    plan: str
    """Digest of the compiled plan, `sha256:<hex>`."""
    model: ModelReference
    artifacts: tuple[ArtifactPin, ...]


def model_reference(facts: ModelFacts) -> ModelReference:
    """Describe the model: a name on the Hub as it is, of a path its last component only.

    The folders above say who uses the machine. What looks like `organisation/name` and is a folder here is a path.
    Of a name that is too long once escaped, the end is kept.
    """
    name = facts.name
    if _HUB_NAME.fullmatch(name) is None or os.path.isdir(name):  # noqa: PTH112 - never raises, whatever the name
        name = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return ModelReference(name=escaped(name)[-LABEL_LENGTH:], architecture=facts.architecture, dtype=facts.dtype)


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
        return GuardDecision.model_validate(
            {
                "req": decision.request,
                "row": decision.row,
                "policy": context.policy,
                "plan": context.plan,
                "model": context.model,
                "artifacts": context.artifacts,
                "mode": decision.mode,
                "readings": tuple([_reading(reading) for reading in decision.readings]),
                "rules": decision.rules,
                "cause": decision.cause,
                "intended": decision.intended,
                "applied": decision.applied,
                "doses": tuple([_dose(dose) for dose in decision.doses]),
                "usage": {
                    "prompt_tokens": decision.usage.prompt_tokens,
                    "generated_tokens": decision.usage.generated_tokens,
                    "extra_forward_tokens": decision.usage.extra_forward_tokens,
                    "cached_tokens": decision.usage.cached_tokens,
                },
                "budget": budget,
                "template_cut": decision.template_cut,
                "content": content,
                "err": err,
                "search": None if decision.search is None else _search(decision.search),
            }
        )
    except ValidationError as error:
        raise refused_fields(error, where=GuardDecision.event_type) from None


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
                "reason": escaped(reason) if kind in _STATED_IN_DOCUMENTS else escaped_label(reason),
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


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "source": reading.source,
        "score": None if reading.score is None else decimal(reading.score),
        "thresholds": tuple([_threshold(threshold) for threshold in reading.thresholds]),
        "token": reading.token,
        "tolerance": decimal(reading.tolerance),
        "near": reading.near,
    }


def _threshold(threshold: Threshold) -> RecordedThreshold:
    value = threshold.value
    # The sign by itself: 0.0 and -0.0 are equal, but not the same decimal string.
    return _recorded_threshold(
        threshold.rule, threshold.bound, value, math.copysign(1.0, value), threshold.fpr, threshold.place
    )


@functools.lru_cache(maxsize=1024)
def _recorded_threshold(
    rule: str, bound: Literal["at_least", "below"], value: float, _sign: float, fpr: str | None, place: str | None
) -> RecordedThreshold:
    """Return the same part for the same threshold: plans have few, and a log writes a part that it knows faster."""
    return RecordedThreshold(rule=rule, bound=bound, value=decimal(value), fpr=fpr, place=place)


def _search(search: SearchReport) -> dict[str, Any]:
    return {
        "step": search.step,
        "method": search.method,
        "outcome": search.outcome,
        "cost": None if search.cost is None else decimal(search.cost),
        "cost_budget": decimal(search.cost_budget),
        "cost_budget_fpr": search.cost_budget_fpr,
        "plain_cost": None if search.plain_cost is None else decimal(search.plain_cost),
        "kept_tokens": search.kept_tokens,
        "candidates": search.candidates,
        "candidates_drawn": search.candidates_drawn,
        "retries": search.retries,
        "halvings": search.halvings,
        "forward_tokens": search.forward_tokens,
        "late_ms": search.late_ms,
    }


def _dose(dose: Dose) -> dict[str, Any]:
    return {
        "step": dose.step,
        "method": dose.method,
        "open_blocks": dose.open_blocks,
        "coefficient": dose.coefficient,
        "positions": dose.positions,
        "expected_positions": dose.expected_positions,
    }
