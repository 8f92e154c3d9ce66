from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.errors import ArtifactFormatError
from steerguard.methods.bounds import CalibratedBound, RawBound
from steerguard.methods.inference_guard import InferenceGuardSpec
from steerguard.methods.search_parts import SearchParts

COST = {"critic": {"blocks": [7, 3], "read": "answer"}}
WITH_CRITIC = {"critic": {"blocks": [7, 3], "read": "answer", "critic": {"hidden": 8}}}


def spec(**changes: Any) -> InferenceGuardSpec:
    return InferenceGuardSpec(**({"id": "search", "method": "inference_guard", "critic": "harm-cost@^1"} | changes))


def test_needs_a_cost_model_or_a_critic() -> None:
    (need,) = spec().artifact_needs()
    assert (need.role, need.reference, need.types) == ("critic", "harm-cost@^1", ("cost_model", "critic"))
    assert need.methods == (
        "response_states",
        "safety_value",
        "sequence_classifier",
        "guardian_logits",
        "embedding_head",
    )


def test_the_defaults_are_the_whole_method_without_a_critic() -> None:
    assert spec().search(COST) == SearchParts(
        candidates=8,
        block_tokens=8,
        keep=2,
        retries=2,
        start="lazy",
        final_check="cost_model",
        value="cost",
        tracks_safety=True,
        uses_critic=False,
        discount=1.0,
        weight=0.0,
        temperature=0.7,
        avoid_penalty=5.0,
    )
    assert spec().cost_bound() is None


def test_every_setting_arrives_in_the_search() -> None:
    parts = spec(
        candidates=5,
        block_tokens=4,
        keep=3,
        retries=1,
        start="always",
        final_check="none",
        discount=0.5,
        value="lagrangian",
        weight=2.0,
        temperature=1.5,
        avoid_penalty=0.0,
    ).search(WITH_CRITIC)
    assert (parts.candidates, parts.block_tokens, parts.keep, parts.retries) == (5, 4, 3, 1)
    assert (parts.start, parts.final_check, parts.value, parts.weight) == ("always", "none", "lagrangian", 2.0)
    assert (parts.discount, parts.temperature, parts.avoid_penalty) == (0.5, 1.5, 0.0)
    assert parts.uses_critic


def test_the_weight_counts_with_the_value_lagrangian_only() -> None:
    assert spec(weight=2.0).search(COST).weight == 0.0
    assert spec(weight=2.0, value="lagrangian").search(COST).weight == 2.0


def test_it_reads_the_cost_models_blocks_and_changes_none() -> None:
    footprint = spec().footprint(COST)
    assert (footprint.steered_blocks, footprint.read_blocks, footprint.answer_blocks) == ((), (), (3, 7))
    assert spec().footprint({"critic": {"template": "a text"}}).answer_blocks == ()


@pytest.mark.parametrize(
    "params", [{"blocks": "3"}, {"blocks": [1, 1]}, {"blocks": [-1]}, {"blocks": [True]}, {"read": "answer"}]
)
def test_blocks_that_are_none_are_refused(params: dict[str, object]) -> None:
    with pytest.raises(ArtifactFormatError, match="blocks"):
        spec().footprint({"critic": params})


@pytest.mark.parametrize(
    ("start", "final_check", "buffered"),
    [("lazy", "none", True), ("always", "cost_model", True), ("lazy", "cost_model", True), ("always", "none", False)],
)
def test_an_answer_that_may_be_replaced_needs_a_buffer(start: str, final_check: str, buffered: bool) -> None:
    assert spec(start=start, final_check=final_check).needs_buffered_stream() is buffered


def test_final_check_needs_a_cost_model() -> None:
    assert spec().features() - spec(final_check="none").features() == {"check.cost_model"}


def test_no_more_are_kept_than_drawn() -> None:
    assert spec(candidates=1, keep=1).keep == 1
    with pytest.raises(ValidationError, match="keep must be at most candidates, which is 3"):
        spec(candidates=3, keep=4)


@pytest.mark.parametrize("changes", [{"discount": 0.0}, {"discount": 1.5}, {"temperature": 0.0}, {"weight": -1.0}])
def test_what_no_search_can_do_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


def test_summary_tells_when_the_search_starts_and_what_the_budget_is() -> None:
    assert "not within its cost budget" in spec().summary()
    assert "from the first token" in spec(start="always").summary()
    assert "the artifact's own cost budget" in spec().summary()
    assert "a cost budget of 0.5" in spec(cost_budget=RawBound(value=0.5)).summary()
    assert "that 5% of benign answers reach" in spec(cost_budget=CalibratedBound(fpr=0.05)).summary()
