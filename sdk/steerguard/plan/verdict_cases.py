"""Every verdict that plans can come to: one combination of scores for each that their rules tell apart.

A plan's verdict changes only where a score comes within its tolerance of a bound, or leaves it, so one combination of
scores stands for all between the same two such places.
"""

from __future__ import annotations

from itertools import product
from math import inf, nextafter, prod
from typing import TYPE_CHECKING

from steerguard.policy.rules import decide

if TYPE_CHECKING:
    from collections.abc import Iterator

    from steerguard.plan.plan import Plan
    from steerguard.policy.rules import Verdict

MAX_CASES = 4096
"""Combinations of score intervals that are gone through; plans with more are refused."""


class VerdictCases:
    """The combinations of scores that the rules of some plans tell apart."""

    def __init__(self, *plans: Plan) -> None:
        """Keep the scores at which a verdict of these plans may change.

        Args:
            plans: one or more; the last one has every detector that any rule compares.
        """
        turns: dict[str, set[float]] = {detector.id: set() for detector in plans[-1].detectors}
        for plan in plans:
            for rule in plan.rules:
                for detector, score in rule.turns(plan.tolerances):
                    turns[detector].add(score)
        ordered = {name: sorted(found) for name, found in turns.items()}
        self._values = {name: (nextafter(cuts[0], -inf), *cuts) if cuts else (0.0,) for name, cuts in ordered.items()}

    @property
    def count(self) -> int:
        """How many combinations there are."""
        return prod(len(found) for found in self._values.values())

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Yield each combination, a score for every detector."""
        for chosen in product(*self._values.values()):
            yield dict(zip(self._values, chosen, strict=True))


def verdict_of(plan: Plan, scores: dict[str, float]) -> Verdict:
    """Return what a plan says about one combination of scores."""
    return decide(plan.rules, plan.default_action, plan.default_use, scores, tolerances=plan.tolerances)
