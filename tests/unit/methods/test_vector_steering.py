from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.errors import ArtifactFormatError, UnsupportedPlanError
from steerguard.methods.fitted_refusal import FittedRefusalSpec
from steerguard.methods.inferaligner import InferAlignerSpec
from steerguard.methods.spec import ArtifactNeed, GuidanceSpec
from steerguard.methods.vector_steering import read_schedule

SPECS = {"inferaligner": InferAlignerSpec, "fitted_refusal": FittedRefusalSpec}
CONSTANT = {"blocks": [10, 11], "strength": "0.5"}
BY_STEP = {**CONSTANT, "schedule": "by_step", "steps": 13}


def spec(method: str, **changes: Any) -> GuidanceSpec:
    return SPECS[method](**({"id": "steer", "method": method, "artifact": "vectors@^1"} | changes))


@pytest.mark.parametrize("method", SPECS)
def test_each_method_needs_vectors_of_its_own(method: str) -> None:
    need = ArtifactNeed(role="vectors", reference="vectors@^1", types=("steering_vectors",), methods=(method,))
    assert spec(method).artifact_needs() == (need,)


@pytest.mark.parametrize("method", SPECS)
def test_left_out_positions_are_the_artifacts_and_otherwise_all(method: str) -> None:
    left_out = spec(method)
    assert left_out.footprint({"vectors": CONSTANT}).positions == "all"
    assert left_out.footprint({"vectors": CONSTANT | {"positions": "decode"}}).positions == "decode"
    stated = spec(method, positions="prefill")
    assert stated.footprint({"vectors": CONSTANT | {"positions": "decode"}}).positions == "prefill"


@pytest.mark.parametrize("method", SPECS)
def test_first_steps_and_modality_tokens_stand_in_the_footprint(method: str) -> None:
    found = spec(method, positions={"first_steps": 8}, modality_tokens="exclude").footprint({"vectors": CONSTANT})
    assert (found.positions, found.first_steps, found.modality_tokens) == ("first_steps", 8, "exclude")
    left_out = spec(method).footprint({"vectors": CONSTANT})
    assert (left_out.first_steps, left_out.modality_tokens) == (None, "include")
    assert spec(method, modality_tokens="exclude").footprint({"vectors": BY_STEP}).modality_tokens == "exclude"
    with pytest.raises(UnsupportedPlanError, match="first_steps: 8"):
        spec(method, positions={"first_steps": 8}).footprint({"vectors": BY_STEP})


@pytest.mark.parametrize("method", SPECS)
@pytest.mark.parametrize(
    "changes", [{"positions": {}}, {"positions": {"first_steps": True}}, {"modality_tokens": None}]
)
def test_positions_of_another_form_are_refused(method: str, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(method, **changes)


@pytest.mark.parametrize("method", SPECS)
def test_a_schedule_has_no_positions_and_a_policy_that_states_some_is_refused(method: str) -> None:
    footprint = spec(method).footprint({"vectors": BY_STEP})
    assert (footprint.schedule, footprint.steps, footprint.positions) == ("by_step", 13, None)
    with pytest.raises(UnsupportedPlanError, match="by_step"):
        spec(method, positions="all").footprint({"vectors": BY_STEP})


def test_fitted_refusal_has_no_gate_of_its_own() -> None:
    assert spec("fitted_refusal", blocks=(3,)).footprint({"vectors": CONSTANT}).read_blocks == ()
    with pytest.raises(ValidationError):
        spec("fitted_refusal", gate="per_block")


@pytest.mark.parametrize("changes", [{"blocks": (3, 2)}, {"blocks": ()}, {"coefficient": 8.5}, {"positions": "some"}])
def test_fitted_refusal_refuses_settings_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec("fitted_refusal", **changes)


def test_fitted_refusal_tells_where_it_acts_and_never_needs_a_buffered_stream() -> None:
    assert "decoder blocks 4, 5" in spec("fitted_refusal", blocks=(4, 5)).summary()
    assert "fitted refusal vectors of vectors@^1" in spec("fitted_refusal").summary()
    assert not spec("fitted_refusal").needs_buffered_stream()
    assert spec("fitted_refusal").features() == {"operator.add", "hook.resid_post", "gate.verdict"}


def test_a_manifest_without_a_schedule_is_constant() -> None:
    found = read_schedule(CONSTANT)
    assert (found.kind, found.steps, found.positions) == ("constant", None, None)


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"schedule": "by_mood"}, "schedule"),
        ({"schedule": None}, "schedule"),
        ({"schedule": "by_step"}, "steps"),
        ({"schedule": "by_step", "steps": 0}, "steps"),
        ({"schedule": "by_step", "steps": True}, "steps"),
        ({"schedule": "by_step", "steps": "3"}, "steps"),
        ({"schedule": "by_step", "steps": 4096}, "steps"),
        ({"schedule": "by_phase", "steps": 3}, "steps"),
        ({"steps": 3}, "steps"),
        ({"schedule": "by_phase", "positions": "all"}, "positions"),
        ({"positions": "everywhere"}, "positions"),
    ],
)
def test_what_a_manifest_may_not_state_is_refused_by_name(params: dict[str, Any], named: str) -> None:
    with pytest.raises(ArtifactFormatError, match=rf"params\.{named}"):
        read_schedule(params)
