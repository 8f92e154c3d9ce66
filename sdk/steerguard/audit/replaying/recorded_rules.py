"""From the readings of one record back to the rules that they were compared under.

The places of a rule's bounds spell its condition, see `steerguard.decision.Threshold`. What a rule does is not on the
line; the plan's digest fixes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from steerguard.audit.reading.gates import gated_step
from steerguard.errors import AuditError
from steerguard.policy.rules import (
    PlannedAll,
    PlannedAny,
    PlannedBound,
    PlannedComparison,
    PlannedCondition,
    PlannedNot,
    PlannedRule,
)

_Path = tuple[str, ...]


def detector_readings(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what detectors read at the prompt: neither gates nor what was read of the answer."""
    return [
        reading
        for reading in record["readings"]
        if reading.get("token") is None and gated_step(reading["source"]) is None
    ]


def gate_readings(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what the gates of guidance steps read."""
    return [reading for reading in record["readings"] if gated_step(reading["source"]) is not None]


def answer_readings(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was read of the answer."""
    return [reading for reading in record["readings"] if reading.get("token") is not None]


def scores_of(readings: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the finite scores by source."""
    return {reading["source"]: float(reading["score"]) for reading in readings if reading["score"] is not None}


def tolerances_of(readings: Iterable[Mapping[str, Any]], *, times: int = 1) -> dict[str, float]:
    """Return the score tolerances by source, each so many times; 0.0 in records of versions that had none."""
    return {reading["source"]: times * float(reading.get("tolerance") or 0.0) for reading in readings}


def recorded_rules(readings: Iterable[Mapping[str, Any]]) -> tuple[PlannedRule, ...]:
    """Return the rules that compared a score, in the order of their first bound; their actions are not on the line.

    Rules that always match compare nothing, so they are not among them.

    Raises:
        AuditError: the bounds of a rule do not spell a condition.
    """
    places: dict[str, dict[_Path, PlannedComparison]] = {}
    for reading in readings:
        for bound in reading["thresholds"]:
            path = tuple(bound["place"].split(".")) if bound.get("place") else ()
            parts = places.setdefault(bound["rule"], {})
            parts[path] = _with(parts.get(path), reading["source"], bound)
    return tuple(PlannedRule(id=rule, when=_condition(rule, parts), action="allow") for rule, parts in places.items())


def _with(known: PlannedComparison | None, detector: str, bound: Mapping[str, Any]) -> PlannedComparison:
    if known is not None and (known.detector != detector or getattr(known, bound["bound"]) is not None):
        raise _malformed(bound["rule"], "two bounds of one kind at one place")
    end = PlannedBound(value=float(bound["value"]), fpr=bound["fpr"])
    comparison = PlannedComparison(detector=detector) if known is None else known
    return replace(comparison, at_least=end) if bound["bound"] == "at_least" else replace(comparison, below=end)


def _condition(rule: str, parts: Mapping[_Path, PlannedComparison]) -> PlannedCondition:
    if () in parts:
        if len(parts) > 1:
            raise _malformed(rule, "a comparison and parts of a condition at one place")
        return parts[()]
    heads = {path[0] for path in parts}
    if heads == {"not"}:
        return PlannedNot(negated=_condition(rule, {path[1:]: part for path, part in parts.items()}))
    if heads not in ({"any"}, {"all"}):
        raise _malformed(rule, "parts of several conditions at one place")
    inner: dict[int, dict[_Path, PlannedComparison]] = {}
    for path, part in parts.items():
        if len(path) < 2 or not path[1].isdecimal():
            raise _malformed(rule, "a place that is none")
        inner.setdefault(int(path[1]), {})[path[2:]] = part
    if sorted(inner) != list(range(len(inner))):
        raise _malformed(rule, "a condition of which parts are missing")
    entries = tuple(_condition(rule, inner[index]) for index in range(len(inner)))
    return PlannedAny(any_of=entries) if heads == {"any"} else PlannedAll(all_of=entries)


def _malformed(rule: str, found: str) -> AuditError:
    return AuditError(
        "The bounds of a rule do not spell a condition.",
        expected="places that lead from the rule's condition to every comparison",
        found=found,
        where=f"rule `{rule}`",
        next_step="Look at the record with `steerguard audit query`: it was not written by this package.",
    )
