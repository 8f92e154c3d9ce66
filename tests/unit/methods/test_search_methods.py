"""The methods that are InferenceGuard's loop with other parts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.methods.catalog import METHODS, method_named
from steerguard.methods.search_parts import SearchParts

COST = {"critic": {"blocks": [5], "read": "answer"}}
WITH_CRITIC = {"critic": {"blocks": [5], "read": "answer", "critic": {"hidden": 8}}}
REQUIRED = {"value_filter": {"threshold": {"value": 0.5}}}
SEARCHES = [method.name for method in METHODS if method.searches]


def spec(method: str, **changes: Any) -> Any:
    entry = {"id": "search", "method": method, "critic": "harm-cost@^1", **REQUIRED.get(method, {}), **changes}
    return method_named(method).spec.model_validate_json(json.dumps(entry))


def parts(method: str, parameters: Any = COST, **changes: Any) -> SearchParts:
    return spec(method, **changes).search(parameters)


def test_these_methods_search() -> None:
    assert SEARCHES == ["inference_guard", "best_of_n", "controlled_decoding", "value_filter", "guardian"]


@pytest.mark.parametrize("method", SEARCHES)
def test_the_default_of_every_search_leaves_the_plain_answer_first_and_is_checked(method: str) -> None:
    found = parts(method)
    assert (found.start, found.final_check) == ("lazy", "cost_model")
    assert spec(method).needs_buffered_stream()


@pytest.mark.parametrize("method", SEARCHES)
def test_every_search_reads_the_answer_and_changes_nothing(method: str) -> None:
    footprint = spec(method).footprint(COST)
    assert (footprint.steered_blocks, footprint.answer_blocks) == ((), (5,))


@pytest.mark.parametrize(
    ("rule", "value", "tracks", "weight"),
    [("plain", "cost", False, 0.0), ("lagrangian", "lagrangian", False, 5.0), ("augmented", "likelihood", True, 0.0)],
)
def test_best_of_n_is_one_block_of_the_whole_answer(rule: str, value: str, tracks: bool, weight: float) -> None:
    found = parts("best_of_n", WITH_CRITIC, rule=rule, candidates=3, temperature=1.1)
    assert (found.candidates, found.block_tokens, found.keep, found.retries) == (3, None, 1, 0)
    assert (found.value, found.tracks_safety, found.weight, found.uses_critic) == (value, tracks, weight, False)
    assert found.temperature == 1.1


def test_an_answer_of_several_is_never_streamed() -> None:
    assert spec("best_of_n", start="always", final_check="none").needs_buffered_stream()
    assert spec("guardian").needs_buffered_stream()


@pytest.mark.parametrize("method", ["controlled_decoding", "value_filter"])
def test_tokens_that_stay_may_leave_early(method: str) -> None:
    assert not spec(method, start="always", final_check="none").needs_buffered_stream()


def test_controlled_decoding_keeps_one_and_tracks_no_safety() -> None:
    found = parts("controlled_decoding", WITH_CRITIC, block_tokens=3)
    assert (found.block_tokens, found.keep, found.retries, found.value) == (3, 1, 0, "cost")
    assert not found.tracks_safety
    assert found.uses_critic
    assert not parts("controlled_decoding").uses_critic


def test_the_value_filter_tries_likely_tokens_one_by_one_with_its_threshold_as_budget() -> None:
    found = parts("value_filter", WITH_CRITIC, candidates=4)
    assert (found.candidates, found.block_tokens, found.keep, found.retries) == (4, 1, 1, 0)
    assert (found.draw, found.value, found.tracks_safety) == ("top", "likelihood", True)
    # A critic would pass over tokens that are under the threshold, and the bound on changed answers would not hold.
    assert not found.uses_critic
    assert spec("value_filter", threshold={"fpr": 0.25}).cost_bound().fpr == 0.25
    with pytest.raises(ValidationError, match="threshold"):
        method_named("value_filter").spec.model_validate_json(
            '{"id": "f", "method": "value_filter", "critic": "harm-cost@^1"}'
        )


def test_a_guardian_needs_a_model_of_texts_and_draws_nothing() -> None:
    (both,) = spec("guardian").artifact_needs()
    assert (both.types, both.methods) == (("cost_model",), ("guardian_logits",))
    (need,) = spec("guardian", check=["output"]).artifact_needs()
    assert need.types == ("cost_model",)
    assert need.methods == ("sequence_classifier", "guardian_logits", "embedding_head")
    found = parts("guardian", {"critic": {}})
    assert (found.candidates, found.block_tokens, found.retries) == (1, None, 0)


def test_a_guardian_always_judges_the_answer() -> None:
    assert "check.input" in spec("guardian").features()
    assert "check.input" not in spec("guardian", check=["output"]).features()
    for check in (["input"], ["output", "output"], []):
        with pytest.raises(ValidationError, match="check"):
            spec("guardian", check=check)


@pytest.mark.parametrize("method", [name for name in SEARCHES if name != "value_filter"])
def test_a_cost_budget_is_the_entrys_or_left_to_the_artifact(method: str) -> None:
    assert spec(method).cost_bound() is None
    assert spec(method, cost_budget={"value": 1.5}).cost_bound().value == 1.5


@pytest.mark.parametrize("method", SEARCHES)
def test_each_summary_names_the_artifact_and_the_budget(method: str) -> None:
    field = "threshold" if method == "value_filter" else "cost_budget"
    summary = spec(method, **{field: {"fpr": 0.05}}).summary()
    assert "harm-cost@^1" in summary
    assert "a cost budget that 5% of benign answers reach" in summary
