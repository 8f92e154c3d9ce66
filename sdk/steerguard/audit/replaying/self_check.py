"""Does every verdict follow from its own line? The rules that matched are computed again from the readings.

What each rule does is fixed by the plan and not on the line, so the action is held against the other records of the plan:
the same rules lead to the same action and cause in all of them.

Rows that are copies of one prompt (beams, several answers) share the strictest verdict of all of them, and the readings
are those of one copy. A further rule may have matched another copy, whose score differs by rounding alone: such a record
is counted apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from steerguard.audit.reading.gates import gated_step
from steerguard.audit.replaying.recorded_rules import (
    answer_readings,
    detector_readings,
    gate_readings,
    recorded_rules,
    scores_of,
    tolerances_of,
)
from steerguard.errors import AuditError
from steerguard.policy.rules import PlannedRule, near

_K = TypeVar("_K")
_V = TypeVar("_V")

MAX_PLANS: Final = 1000
"""Plans, and sets of rules, of which the first record is remembered."""

NOTHING_READ: Final = frozenset({"unrecognised_prompt", "revoked"})
"""Causes with which no detector was asked."""
REFUSING: Final = frozenset({"revoked", "non_finite", "budget", "answer_reading", "no_candidate", "critic_failed"})
"""Causes whose intended action is always `refuse`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """One record whose verdict does not follow from its line."""

    log: str
    seq: int
    req: str
    row: int
    reason: str


class SelfCheck:
    """Checks decisions one by one, in memory that does not grow with their number.

    Args:
        keep: how many disagreements are kept; all are counted.
    """

    def __init__(self, *, keep: int = 20) -> None:
        self.records = 0
        """Decisions that were checked."""
        self.of_copies = 0
        """Among them, those that agree if further rules matched another copy of the prompt."""
        self.disagreed = 0
        self.disagreements: list[Disagreement] = []
        self._keep = keep
        self._outcomes: OrderedDict[tuple[str, frozenset[str]], tuple[str, str]] = OrderedDict()
        self._always: OrderedDict[str, frozenset[str]] = OrderedDict()

    def add(self, record: Mapping[str, Any]) -> None:
        """Check one record; those of other types than `guard.decision` are passed over."""
        if record["type"] != "guard.decision":
            return
        self.records += 1
        try:
            reason = next(self._faults(record), None)
        except AuditError as error:
            reason = f"{error.summary} {error.where}: {error.found}"
        if reason is None:
            return
        self.disagreed += 1
        if len(self.disagreements) < self._keep:
            place = {name: record[name] for name in ("log", "seq", "req", "row")}
            self.disagreements.append(Disagreement(**place, reason=reason))

    def learn(self, record: Mapping[str, Any]) -> None:
        """Take what other records say: nothing, since a verdict must follow from its own line."""

    def document(self) -> dict[str, Any]:
        """Return what was found, as JSON values."""
        return {
            "records": self.records,
            "agreed": self.records - self.disagreed,
            "of_copies": self.of_copies,
            "disagreed": self.disagreed,
            "disagreements": [asdict(one) for one in self.disagreements],
        }

    def _faults(self, record: Mapping[str, Any]) -> Iterator[str]:
        cause, intended, readings = record["cause"], record["intended"], detector_readings(record)
        yield from _applied(record)
        if record["err"] is not None:
            # A part of the guard failed: what follows is said by the policy's failure rule and not by readings.
            return
        if cause in REFUSING and intended != "refuse":
            yield f"with the cause `{cause}` the intended action is `refuse`, and the record says `{intended}`"
        if cause in NOTHING_READ:
            if readings or record["rules"]:
                yield f"with the cause `{cause}` nothing is read, and the record has readings or rules"
            return
        yield from _near_flags(readings)
        if any(reading["score"] is None for reading in readings):
            if cause != "non_finite":
                yield f"a score is not finite, and the cause is `{cause}` and not `non_finite`"
            return
        if cause in {"non_finite", "budget"} and not record["rules"]:
            # Refused before any rule was asked, or none matched.
            return
        yield from self._rules(record, readings)
        yield from _answer(record)

    def _rules(self, record: Mapping[str, Any], readings: list[dict[str, Any]]) -> Iterator[str]:
        rules, scores = recorded_rules(readings), scores_of(readings)
        compared, said = {rule.id for rule in rules}, set(record["rules"])
        found = _matching(rules, scores, tolerances_of(readings))
        if found - said:
            yield f"{_named(found - said)} matched by the readings, and the record does not say so"
        further = (said & compared) - found
        if further:
            # A score is off by one tolerance at most, so that of a copy lies within two.
            if not further <= _matching(rules, scores, tolerances_of(readings, times=2)):
                yield f"{_named(further)} did not match by the readings, and the record says so"
            self.of_copies += 1
        yield from self._same_in_plan(record, frozenset(said), frozenset(said - compared))

    def _same_in_plan(self, record: Mapping[str, Any], rules: frozenset[str], always: frozenset[str]) -> Iterator[str]:
        """Rules without a comparison match every row of their plan; the same rules lead to the same action."""
        plan = record["plan"]
        if _remembered(self._always, plan, always) != always:
            yield "rules without a comparison matched in one record of the plan and not in another"
        if record["cause"] not in {"rule", "default"}:
            return
        if record["cause"] == "rule" and not rules:
            yield "the cause is `rule`, and no rule matched"
        outcome = (record["intended"], record["cause"])
        known = _remembered(self._outcomes, (plan, rules), outcome)
        if known != outcome:
            yield (
                f"the same rules of the plan led to `{known[0]}` ({known[1]}) in an earlier record, "
                f"and to `{outcome[0]}` ({outcome[1]}) in this one"
            )


def _applied(record: Mapping[str, Any]) -> Iterator[str]:
    mode, intended, applied = record["mode"], record["intended"], record["applied"]
    # What cannot be answered at all is refused in every mode.
    passive = {"allow", "refuse"} if record["cause"] == "non_finite" else {"allow"}
    legal = {intended} if mode == "enforce" else passive
    if applied not in legal:
        yield f"in mode `{mode}` with the intended action `{intended}`, the record says that `{applied}` was applied"
    for dose in record["doses"]:
        if dose["positions"] != dose["expected_positions"]:
            yield (
                f"step `{dose['step']}` changed {dose['positions']} positions where "
                f"{dose['expected_positions']} were expected"
            )


def _near_flags(readings: list[dict[str, Any]]) -> Iterator[str]:
    for reading in readings:
        if reading["score"] is None or reading.get("tolerance") is None:
            continue
        score, tolerance = float(reading["score"]), float(reading["tolerance"])
        around = (near(float(bound["value"]), tolerance) for bound in reading["thresholds"])
        if any(first <= score < end for first, end in around) != reading["near"]:
            yield f"`near` of `{reading['source']}` does not follow from its score and tolerance"


def _answer(record: Mapping[str, Any]) -> Iterator[str]:
    cause = record["cause"]
    if cause == "answer_reading":
        readings = [reading for reading in answer_readings(record) if reading["score"] is not None]
        reached = any(
            rule.matches(scores_of([reading]), tolerances_of([reading]))
            for reading in readings
            for rule in recorded_rules([reading])
        )
        if not reached:
            yield "the cause is `answer_reading`, and no reading of the answer reached its threshold"
    if cause in {"no_candidate", "critic_failed"} and record.get("search") is None:
        yield f"the cause is `{cause}`, and no search is on the line"
    if cause in {"rule", "default"} and any(
        reading["score"] is None for reading in answer_readings(record) + _gates_in_use(record)
    ):
        yield f"a score is not finite, and the cause is `{cause}` and not `non_finite`"


def _gates_in_use(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the readings of gates whose step acted on the row; those of other steps decide nothing."""
    acted = {dose["step"] for dose in record["doses"]}
    return [reading for reading in gate_readings(record) if gated_step(reading["source"]) in acted]


def _matching(rules: tuple[PlannedRule, ...], scores: Mapping[str, float], tolerances: Mapping[str, float]) -> set[str]:
    return {rule.id for rule in rules if rule.matches(scores, tolerances)}


def _named(rules: set[str]) -> str:
    return ", ".join(f"`{rule}`" for rule in sorted(rules))


def _remembered(known: OrderedDict[_K, _V], key: _K, value: _V) -> _V:
    """Return what was remembered first under a key; a thousand keys are remembered, those used last."""
    first = known.setdefault(key, value)
    known.move_to_end(key)
    if len(known) > MAX_PLANS:
        known.popitem(last=False)
    return first
