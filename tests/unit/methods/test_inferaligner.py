from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.methods.inferaligner import InferAlignerSpec
from steerguard.methods.spec import ArtifactNeed


def spec(**changes: Any) -> InferAlignerSpec:
    return InferAlignerSpec(**({"id": "steer", "method": "inferaligner", "artifact": "inferaligner@^1"} | changes))


def test_needs_the_steering_vectors() -> None:
    need = ArtifactNeed(
        role="vectors", reference="inferaligner@^1", types=("steering_vectors",), methods=("inferaligner",)
    )
    assert spec().artifact_needs() == (need,)


def test_linear_gates_are_needed_only_per_block() -> None:
    assert spec().features() == {"operator.add", "hook.resid_post", "gate.verdict"}
    assert spec(gate="per_block").features() - spec().features() == {"gate.linear"}


def test_never_needs_a_buffered_stream() -> None:
    assert not spec().needs_buffered_stream()


@pytest.mark.parametrize("blocks", [(), (3, 2), (2, 2), (-1,)])
def test_blocks_must_increase_from_zero(blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        spec(blocks=blocks)


@pytest.mark.parametrize("coefficient", [-0.1, 8.1, float("nan"), float("inf")])
def test_coefficient_is_bounded_and_finite(coefficient: float) -> None:
    with pytest.raises(ValidationError):
        spec(coefficient=coefficient)


def test_summary_names_blocks_and_artifact() -> None:
    assert "decoder blocks 4, 5" in spec(blocks=(4, 5)).summary()
    assert "calibrated decoder blocks" in spec().summary()


def test_footprint_is_the_calibrated_window_unless_the_policy_names_blocks() -> None:
    parameters = {"vectors": {"blocks": [10, 11, 12], "strength": "0.5"}}
    calibrated = spec().footprint(parameters)
    assert (calibrated.steered_blocks, calibrated.read_blocks, calibrated.strength) == ((10, 11, 12), (), "0.5")
    named = spec(blocks=(4, 5), gate="per_block", positions="decode").footprint(parameters)
    assert (named.steered_blocks, named.read_blocks, named.positions) == ((4, 5), (4, 5), "decode")
