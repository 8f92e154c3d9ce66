"""A policy in plain words: what will happen to a request, one sentence a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerguard.methods.bounds import CalibratedBound
from steerguard.policy.failure import Loosening
from steerguard.policy.rule_documents import (
    AllCondition,
    AlwaysCondition,
    AnyCondition,
    NotCondition,
    ScoreCondition,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steerguard.methods.bounds import RawBound
    from steerguard.policy.document import Policy
    from steerguard.policy.failure import FailureHandling, UnrecognisedPrompt
    from steerguard.policy.rule_documents import Clause, Condition, Outcome


def describe(policy: Policy) -> tuple[str, ...]:
    """Return what the policy does, as sentences in the order in which things happen."""
    return (
        *_mode(policy),
        *(
            f"Detector {entry.id} reads one score per request with {entry.artifact} at the end of the generation prompt."
            for entry in policy.detectors
        ),
        *(
            f"Rates of {entry.id} come from the calibration {entry.calibration.file}, pinned to {entry.calibration.sha256}."
            for entry in policy.detectors
            if entry.calibration is not None
        ),
        *(f"{_condition(rule.when)}, {_outcome(rule.then)} (rule {rule.id})." for rule in policy.rules),
        f"Otherwise, and at least, {_outcome(policy.default)}.",
        *(f"Guidance {entry.id} {entry.summary()}." for entry in policy.guidance),
        f'A refused request is answered with: "{policy.refusal.template}"',
        *_limits(policy),
        f"A prompt without an assistant header: {_handling(policy.unrecognised_prompt)}.",
        f"If a detector fails: {_handling(policy.failure.detector)}.",
        f"If guidance fails: {_handling(policy.failure.guidance)}.",
        f"If the decision cannot be recorded: {_handling(policy.failure.audit)}.",
        _audit(policy),
    )


def _mode(policy: Policy) -> Iterator[str]:
    if policy.mode == "monitor":
        yield "Nothing is changed: the policy detects, and records what it would have done."


def _condition(condition: Condition) -> str:
    if isinstance(condition, AlwaysCondition):
        return "For every request"
    return f"When {_clause(condition)}"


def _clause(condition: Clause) -> str:
    match condition:
        case AnyCondition(any_of=parts):
            return " or ".join(_part(part, among=len(parts)) for part in parts)
        case AllCondition(all_of=parts):
            return " and ".join(_part(part, among=len(parts)) for part in parts)
        case NotCondition(negated=part):
            return f"it is not true that {_part(part, among=2)}"
        case ScoreCondition(score=score):
            ends = []
            if score.at_least is not None:
                ends.append(f"is at least {_bound(score.at_least)}")
            if score.below is not None:
                ends.append(f"is below {_bound(score.below)}")
            return f"the score of {condition.detector} {' and '.join(ends)}"


def _part(condition: Clause, *, among: int) -> str:
    """Return a condition as one of several, in parentheses where `and` and `or` could be read in another order."""
    text = _clause(condition)
    simple = isinstance(condition, ScoreCondition) and (
        condition.score.at_least is None or condition.score.below is None
    )
    return text if simple or among == 1 else f"({text})"


def _bound(bound: RawBound | CalibratedBound) -> str:
    if isinstance(bound, CalibratedBound):
        return f"what {bound.fpr * 100:g}% of benign prompts reach"
    return str(bound.value)


def _outcome(outcome: Outcome) -> str:
    if outcome.action == "guide":
        return f"the answer is guided by {' and '.join(outcome.use)}"
    return {
        "allow": "the answer is given unchanged",
        "annotate": "the answer is given unchanged and marked",
        "refuse": "the request is refused",
    }[outcome.action]


def _limits(policy: Policy) -> Iterator[str]:
    budget = policy.budget
    yield (
        f"Guidance may add {budget.max_extra_forward_tokens} forward tokens, {budget.max_added_latency_ms} ms and "
        f"{budget.max_extra_memory_mib} MiB per request, and keep {budget.max_candidates} candidates at once."
    )
    if budget.on_exceeded == "fallback":
        yield f"Beyond that it falls back to {', then '.join(budget.fallback)}, and then refuses."
    else:
        yield "Beyond that the request is refused."
    yield {
        "buffer": "A streamed answer is released once it is decided.",
        "window": "A streamed answer is released as long as it stays within budget.",
        "unsafe_passthrough": "A streamed answer is released at once, before it is checked.",
    }[policy.streaming.strategy]


def _handling(setting: FailureHandling | UnrecognisedPrompt) -> str:
    if isinstance(setting, Loosening):
        return f"allowed until {setting.expires.isoformat()}, because: {setting.reason}"
    return {"refuse": "refused", "gate_every_turn": "the gate is read again at every turn"}[setting]


def _audit(policy: Policy) -> str:
    told = {"none": "nothing more", "code": "the rule", "category": "the rule and its category"}[policy.disclosure]
    kept = {
        "none": "the lengths of prompt and answer",
        "hmac": "keyed hashes of prompt and answer",
        "encrypted": "prompt and answer, encrypted",
    }[policy.audit.content]
    return f"A refused caller is told {told}; the audit log keeps {kept}."
