from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.methods.inference_guard import InferenceGuardSpec


def spec(**changes: Any) -> InferenceGuardSpec:
    return InferenceGuardSpec(**({"id": "search", "method": "inference_guard", "critic": "harm-cost@^1"} | changes))


def test_needs_the_critic() -> None:
    (need,) = spec().artifact_needs()
    assert (need.role, need.reference, need.type) == ("critic", "harm-cost@^1", "critic")


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


def test_summary_tells_when_the_search_starts() -> None:
    assert "rejects the plain answer" in spec().summary()
    assert "from the first token" in spec(start="always").summary()
