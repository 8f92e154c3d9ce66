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
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBound:
    """One end of an interval of scores, resolved to a number."""

    value: float
    """The float32 value that a score is compared with."""
    fpr: str | None = None
    """The calibrated false-positive rate that `value` came from, as a decimal string."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRule:
    """One rule with resolved bounds."""

    id: str
    detector: str | None
    """Detector whose score is compared; None for a rule that always matches."""
    at_least: PlannedBound | None = None
    below: PlannedBound | None = None
    action: Action
    use: tuple[str, ...] = ()

    def matches(self, scores: Mapping[str, float]) -> bool:
        """Return whether the score lies in `[at_least, below)`.

        Raises:
            GuidanceError: there is no score of the detector.
        """
        if self.detector is None:
            return True
        if self.detector not in scores:
            raise GuidanceError(
                f"Rule `{self.id}` needs a score that was not read.",
                expected=f"a score of the detector `{self.detector}`",
                found=f"scores of {', '.join(sorted(scores)) or 'no detector'}",
                where=f"rule {self.id}",
            )
        score = scores[self.detector]
        return (self.at_least is None or score >= self.at_least.value) and (
            self.below is None or score < self.below.value
        )


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
