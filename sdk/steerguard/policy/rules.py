"""The decision of a policy on one row: a pure function of rules and scores.

Every rule is evaluated and the most restrictive outcome wins, the default included.
So the order of the rules never matters, and adding a rule never makes the outcome less restrictive.

Scores round differently in batches of another shape, so a comparison with a score within the tolerance of its bound is
neither true nor false: it may hold. `any`, `all` and `not` carry that on (Kleene's strong three-valued logic), and a rule
matches when its condition may hold. As more rules never loosen, the verdict is at least as strict as that of every score
within the tolerance, those that rounding could have given among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from steerguard.artifacts.calibration import next_float32, to_float32
from steerguard.decision import ACTION_ORDER, Action, Cause
from steerguard.errors import GuidanceError, NonFiniteHiddenStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


EXACT: Mapping[str, float] = MappingProxyType({})
"""No tolerances: every score is compared as it is."""


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

    def matches(self, scores: Mapping[str, float], tolerances: Mapping[str, float] = EXACT) -> bool:
        """Return whether the condition may hold for scores that are known to within their tolerance.

        Args:
            scores: by detector.
            tolerances: by detector, at least 0.0; a detector without one is compared exactly.

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
        return _holds(self.when, scores, tolerances, may=True)

    def turns(self, tolerances: Mapping[str, float] = EXACT) -> Iterator[tuple[str, float]]:
        """Yield a detector and a score for every bound: only from there on may the rule match otherwise than below.

        Args:
            tolerances: as in `matches`.
        """
        for place, comparison in self.comparisons:
            may = place.split(".").count("not") % 2 == 0
            low, high = interval_of(comparison, tolerances.get(comparison.detector, 0.0), may=may)
            yield from ((comparison.detector, end) for end in (low, high) if end is not None)


def near(value: float, tolerance: float) -> tuple[float, float]:
    """Return the first score that lies within a tolerance of a bound, and the first above it that does not.

    Both are float32 and rounded outwards, so that host and device compare a score with the same numbers.

    Args:
        value: float32 bound.
        tolerance: at least 0.0; with 0.0 both ends are the bound, and no score lies between them.
    """
    if tolerance == 0.0:
        return value, value
    low, high = value - tolerance, value + tolerance
    first, last = to_float32(low), to_float32(high)
    return first if first <= low else -next_float32(-first), last if last >= high else next_float32(last)


def interval_of(comparison: PlannedComparison, tolerance: float, *, may: bool) -> tuple[float | None, float | None]:
    """Return the interval `[low, high)` of scores for which a comparison may hold, or for which it must.

    Args:
        comparison: with bounds in float32.
        tolerance: of its detector's score.
        may: whether it may hold, for some score within the tolerance, or must hold, for each of them.

    Returns:
        Both ends in float32; None where the interval is open.
    """
    low, high = comparison.at_least, comparison.below
    return (
        None if low is None else near(low.value, tolerance)[0 if may else 1],
        None if high is None else near(high.value, tolerance)[1 if may else 0],
    )


def _holds(
    condition: PlannedCondition, scores: Mapping[str, float], tolerances: Mapping[str, float], *, may: bool
) -> bool:
    """Return whether a condition may hold, or must: what may hold is what need not be false."""
    match condition:
        case PlannedComparison(detector=detector):
            low, high = interval_of(condition, tolerances.get(detector, 0.0), may=may)
            return (low is None or scores[detector] >= low) and (high is None or scores[detector] < high)
        case PlannedAny(any_of=parts):
            return any(_holds(part, scores, tolerances, may=may) for part in parts)
        case PlannedAll(all_of=parts):
            return all(_holds(part, scores, tolerances, may=may) for part in parts)
        case PlannedNot(negated=part):
            return not _holds(part, scores, tolerances, may=not may)


def _down(place: str, step: str) -> str:
    return f"{place}.{step}" if place else step


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rules say about one row."""

    rules: tuple[str, ...]
    """Ids of all rules that matched: those whose condition may hold, in the order in which the rules were given."""
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
    tolerances: Mapping[str, float] = EXACT,
) -> Verdict:
    """Return the verdict of all rules on the scores of one row: the strictest that scores within the tolerances give.

    Args:
        rules: every rule of the policy; the order does not change action, use or cause.
        default_action: outcome without a match, and the least restrictive outcome with one.
        default_use: guidance entries of the default.
        scores: score of each detector, by detector id.
        guidance: ids of the guidance entries in document order, which `use` then follows; alphabetical otherwise.
        tolerances: how far each score may be off, by detector id, at least 0.0; one that is not there is exact.

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
    matched = tuple(rule for rule in rules if rule.matches(scores, tolerances))
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
