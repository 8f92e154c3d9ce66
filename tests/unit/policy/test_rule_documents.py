from __future__ import annotations

from steerguard.policy.rule_documents import AlwaysCondition, CalibratedBound, RawBound


def test_each_form_of_a_bound_answers_for_both() -> None:
    raw, calibrated = RawBound(value=0.5), CalibratedBound(fpr=1e-05)
    assert (raw.value, raw.fpr) == (0.5, None)
    assert (calibrated.value, calibrated.fpr, calibrated.fpr_text) == (None, 1e-05, "0.00001")


def test_a_condition_that_always_holds_reads_no_score() -> None:
    condition = AlwaysCondition(always=True)
    assert (condition.detector, condition.score) == (None, None)
