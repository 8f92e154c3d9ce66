"""The decision of a policy on one row: a pure function of rules and scores.

Every rule is evaluated and the most restrictive outcome wins, the default included.
So the order of the rules never matters, and adding a rule never makes the outcome less restrictive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.decision import ACTION_ORDER, Action, Cause
from steerguard.errors import GuidanceError, NonFiniteHiddenStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBound:
    """One end of an interval of scores, resolved to a number."""

    value: float
    """The float32 value that a score is compared with."""
    fpr: str | None = None
    """The calibrated false-positive rate that `value` came from, as a decimal string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedComparison:
    """True for a score in `[at_least, below)`; an end that is None is open."""

    detector: str
    """Detector whose score is compared."""
    at_least: PlannedBound | None = None
    below: PlannedBound | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAny:
    """True where at least one of its conditions is."""

    any_of: tuple[PlannedCondition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAll:
    """True where every one of its conditions is."""

    all_of: tuple[PlannedCondition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedNot:
    """True where its condition is false."""

    negated: PlannedCondition


PlannedCondition = PlannedComparison | PlannedAny | PlannedAll | PlannedNot
"""What a rule asks of the scores of a row; the device evaluates the same tree in `engine/verdict.py`."""


def planned_comparisons(condition: PlannedCondition, place: str = "") -> Iterator[tuple[str, PlannedComparison]]:
    """Yield every comparison of a condition with its place, in the order of the document.

    The place is the way down from the rule's condition, for example `any.1.not`; empty for a rule that is a single
    comparison. Places and comparisons together give the condition back.
    """
    match condition:
        case PlannedComparison():
            yield place, condition
        case PlannedAny(any_of=parts):
            for index, part in enumerate(parts):
                yield from planned_comparisons(part, _down(place, f"any.{index}"))
        case PlannedAll(all_of=parts):
            for index, part in enumerate(parts):
                yield from planned_comparisons(part, _down(place, f"all.{index}"))
        case PlannedNot(negated=part):
            yield from planned_comparisons(part, _down(place, "not"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRule:
    """One rule with resolved bounds."""

    id: str
    when: PlannedCondition | None
    """What is asked of the scores; None for a rule that always matches."""
    action: Action
    use: tuple[str, ...] = ()

    @property
    def comparisons(self) -> tuple[tuple[str, PlannedComparison], ...]:
        """Every comparison with its place in the condition, in the order of the document."""
        return () if self.when is None else tuple(planned_comparisons(self.when))

    def matches(self, scores: Mapping[str, float]) -> bool:
        """Return whether the condition is true of the scores.

        Raises:
            GuidanceError: there is no score of a detector that the condition names, needed or not for the outcome.
        """
        if self.when is None:
            return True
        for _, comparison in self.comparisons:
            if comparison.detector not in scores:
                raise GuidanceError(
                    f"Rule `{self.id}` needs a score that was not read.",
                    expected=f"a score of the detector `{comparison.detector}`",
                    found=f"scores of {', '.join(sorted(scores)) or 'no detector'}",
                    where=f"rule {self.id}",
                )
        return _holds(self.when, scores)


def _holds(condition: PlannedCondition, scores: Mapping[str, float]) -> bool:
    match condition:
        case PlannedComparison(at_least=low, below=high):
            score = scores[condition.detector]
            return (low is None or score >= low.value) and (high is None or score < high.value)
        case PlannedAny(any_of=parts):
            return any(_holds(part, scores) for part in parts)
        case PlannedAll(all_of=parts):
            return all(_holds(part, scores) for part in parts)
        case PlannedNot(negated=part):
            return not _holds(part, scores)


def _down(place: str, step: str) -> str:
    return f"{place}.{step}" if place else step


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say about one row."""

    rules: tuple[str, ...]
    """Ids of all rules that matched, in the order in which the rules were given."""
    action: Action
    """The most restrictive action among the default and the rules that matched."""
    use: tuple[str, ...]
    """Guidance entries to use; empty unless the action is `guide`."""
    cause: Cause
    """`rule` when a rule that matched asks for the action, else `default`."""


def decide(
    rules: Iterable[PlannedRule],
    default_action: Action,
    default_use: tuple[str, ...],
    scores: Mapping[str, float],
    *,
    guidance: Sequence[str] = (),
) -> Verdict:
    """Return the verdict of all rules on the scores of one row.

    Args:
        rules: every rule of the policy; the order does not change action, use or cause.
        default_action: outcome without a match, and the least restrictive outcome with one.
        default_use: guidance entries of the default.
        scores: score of each detector, by detector id.
        guidance: ids of the guidance entries in document order, which `use` then follows; alphabetical otherwise.

    Raises:
        NonFiniteHiddenStateError: a score is NaN or infinite.
        GuidanceError: a rule needs a score that is not there.
    """
    for detector, score in scores.items():
        if not math.isfinite(score):
            raise NonFiniteHiddenStateError(
                "A detector's score is not a finite number.",
                expected="a finite score",
                found=str(score),
                where=f"detector {detector}",
            )
    matched = tuple(rule for rule in rules if rule.matches(scores))
    action = max((default_action, *(rule.action for rule in matched)), key=ACTION_ORDER.index)
    asked = [rule.use for rule in matched if rule.action == action]
    by_rule = bool(asked)
    if default_action == action:
        asked.append(default_use)
    use = {name for names in asked for name in names} if action == "guide" else set()
    rank = {name: position for position, name in enumerate(guidance)}
    return Verdict(
        rules=tuple(rule.id for rule in matched),
        action=action,
        use=tuple(sorted(use, key=lambda name: (rank.get(name, len(rank)), name))),
        cause="rule" if by_rule else "default",
    )
