from __future__ import annotations

from pydantic import TypeAdapter

from steerguard.methods.bounds import CalibratedBound, RawBound
from steerguard.policy.rule_documents import Condition, comparisons

NESTED = """{"any": [{"detector": "a", "score": {"below": {"value": 1.0}}},
                     {"not": {"all": [{"detector": "b", "score": {"at_least": {"fpr": 0.1}}}]}}]}"""


def test_each_form_of_a_bound_answers_for_both() -> None:
    raw, calibrated = RawBound(value=0.5), CalibratedBound(fpr=1e-05)
    assert (raw.value, raw.fpr) == (0.5, None)
    assert (calibrated.value, calibrated.fpr, calibrated.fpr_text) == (None, 1e-05, "0.00001")


def test_a_condition_that_always_holds_compares_nothing() -> None:
    assert list(comparisons(TypeAdapter(Condition).validate_json('{"always": true}'))) == []


def test_comparisons_are_found_with_the_paths_of_the_document() -> None:
    condition = TypeAdapter(Condition).validate_json(NESTED)
    assert [(path, comparison.detector) for path, comparison in comparisons(condition)] == [
        (("any", 0), "a"),
        (("any", 1, "not", "all", 0), "b"),
    ]
