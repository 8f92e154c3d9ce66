"""What can be said of a condition before any score exists: how deep and large it is, and whether it can ever be true."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING

from steerguard.methods.bounds import CalibratedBound
from steerguard.policy.rule_documents import (
    AllCondition,
    AlwaysCondition,
    AnyCondition,
    NotCondition,
    ScoreCondition,
    comparisons,
    inner_conditions,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.methods.bounds import Bound
    from steerguard.policy.problems import Path
    from steerguard.policy.rule_documents import Condition

MAX_CASES = 1024
"""Combinations of score intervals that are looked at; a condition with more counts as one that can be true."""

_Scale = tuple[str, bool]
"""Detector, and whether its bounds are rates: how a rate lies to a raw score is known to a calibration only."""


def too_deep(condition: Condition, levels: int) -> Path | None:
    """Return the path of the first `any`, `all` or `not` that more than `levels - 1` others enclose; None without one."""
    if isinstance(condition, (AlwaysCondition, ScoreCondition)):
        return None
    if levels == 0:
        return ()
    for path, part in inner_conditions(condition):
        deeper = too_deep(part, levels - 1)
        if deeper is not None:
            return (*path, *deeper)
    return None


def can_be_true(condition: Condition) -> bool:
    """Return False when no scores at all make the condition true; True when some do, or when it is too large to say.

    Per detector the bounds of one kind cut the line of scores into intervals, and a condition is constant on each
    combination of them. Raw bounds and rates of one detector are looked at as if they were of two.
    """
    cuts: dict[_Scale, set[float]] = {}
    for _, comparison in comparisons(condition):
        for bound in (comparison.score.at_least, comparison.score.below):
            if bound is not None:
                cuts.setdefault(_scale(comparison.detector, bound), set()).add(_height(bound))
    scales = {scale: sorted(heights) for scale, heights in cuts.items()}
    if prod(len(heights) + 1 for heights in scales.values()) > MAX_CASES:
        return True
    # An interval is named by its lower end; the lowest has none.
    intervals = product(*((float("-inf"), *heights) for heights in scales.values()))
    return any(_holds(condition, dict(zip(scales, chosen, strict=True))) for chosen in intervals)


def _scale(detector: str, bound: Bound) -> _Scale:
    return detector, isinstance(bound, CalibratedBound)


def _height(bound: Bound) -> float:
    """Return a number that orders bounds of one scale as their scores are ordered: a smaller rate is a higher score."""
    return -bound.fpr if isinstance(bound, CalibratedBound) else bound.value


def _holds(condition: Condition, scores: Mapping[_Scale, float]) -> bool:
    match condition:
        case AlwaysCondition():
            return True
        case ScoreCondition(detector=detector, score=score):
            low, high = score.at_least, score.below
            return (low is None or scores[_scale(detector, low)] >= _height(low)) and (
                high is None or scores[_scale(detector, high)] < _height(high)
            )
        case AnyCondition(any_of=parts):
            return any(_holds(part, scores) for part in parts)
        case AllCondition(all_of=parts):
            return all(_holds(part, scores) for part in parts)
        case NotCondition(negated=part):
            return not _holds(part, scores)
