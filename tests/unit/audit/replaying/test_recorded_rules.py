"""Which rules a record's readings were compared under."""

from __future__ import annotations

import pytest

from steerguard.audit.replaying.recorded_rules import (
    answer_readings,
    detector_readings,
    gate_readings,
    recorded_rules,
    scores_of,
    tolerances_of,
)
from steerguard.errors import AuditError
from steerguard.policy.rules import PlannedAll, PlannedAny, PlannedBound, PlannedComparison, PlannedNot, PlannedRule


def bound(rule="r", kind="at_least", value="1.5", fpr=None, place=None):
    return {"rule": rule, "bound": kind, "value": value, "fpr": fpr, "place": place}


def reading(source, *bounds, score="0.5", **fields):
    return {"source": source, "score": score, "thresholds": bounds, **fields}


def at_least(detector, value):
    return PlannedComparison(detector=detector, at_least=PlannedBound(value=value))


def test_readings_are_those_of_detectors_gates_or_the_answer():
    detector, gate, answer = reading("d"), reading("align/block 3"), reading("align", token=4)
    record = {"readings": [detector, gate, answer]}
    assert detector_readings(record) == [detector]
    assert gate_readings(record) == [gate]
    assert answer_readings(record) == [answer]


def test_scores_that_are_not_finite_are_left_out_and_a_tolerance_that_is_not_there_is_none():
    readings = [reading("d", score=None, tolerance="0.25"), reading("e", score="-2.5")]
    assert scores_of(readings) == {"e": -2.5}
    assert tolerances_of(readings) == {"d": 0.25, "e": 0.0}
    assert tolerances_of(readings, times=2) == {"d": 0.5, "e": 0.0}


def test_both_bounds_of_one_comparison_come_together():
    readings = [reading("d", bound(fpr="0.05"), bound(kind="below", value="5.0"))]
    both = PlannedComparison(
        detector="d", at_least=PlannedBound(value=1.5, fpr="0.05"), below=PlannedBound(value=5.0, fpr=None)
    )
    assert recorded_rules(readings) == (PlannedRule(id="r", when=both, action="allow"),)


def test_places_spell_nested_conditions_over_several_detectors():
    readings = [
        reading("d", bound(place="any.0"), bound(place="any.1.not", value="2.5")),
        reading("e", bound(place="any.2.all.1", value="3.5"), bound(rule="other", value="4.5")),
        reading("f", bound(place="any.2.all.0", value="0.5")),
    ]
    inner = PlannedAll(all_of=(at_least("f", 0.5), at_least("e", 3.5)))
    whole = PlannedAny(any_of=(at_least("d", 1.5), PlannedNot(negated=at_least("d", 2.5)), inner))
    assert {rule.id: rule.when for rule in recorded_rules(readings)} == {"r": whole, "other": at_least("e", 4.5)}


@pytest.mark.parametrize(
    "bounds",
    [
        [("d", bound()), ("e", bound(kind="below"))],
        [("d", bound()), ("d", bound(value="2.5"))],
        [("d", bound()), ("d", bound(place="any.0"))],
        [("d", bound(place="any.0")), ("d", bound(place="all.1"))],
        [("d", bound(place="any.1"))],
        [("d", bound(place="any.x"))],
        [("d", bound(place="any"))],
    ],
)
def test_bounds_that_spell_no_condition_are_an_error(bounds):
    with pytest.raises(AuditError, match="do not spell a condition") as caught:
        recorded_rules(reading(source, one) for source, one in bounds)
    assert "rule `r`" in str(caught.value)
