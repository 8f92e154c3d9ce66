from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from steerguard.errors import ArtifactFormatError
from steerguard.methods.refusal_direction import RefusalDirectionSpec
from steerguard.methods.spec import ArtifactNeed

PARAMS = {"blocks": [5], "strength": "0.5", "positions": "decode", "source_block": 5, "ablated_blocks": [0, 1, 2]}


def spec(**changes: Any) -> RefusalDirectionSpec:
    fields = {"id": "s", "method": "refusal_direction", "artifact": "refusal-direction@^1"}
    return RefusalDirectionSpec(**(fields | changes))


def test_it_needs_vectors_of_its_own_method() -> None:
    need = ArtifactNeed(
        role="vectors", reference="refusal-direction@^1", types=("steering_vectors",), methods=("refusal_direction",)
    )
    assert spec().artifact_needs() == (need,)


def test_add_acts_where_the_artifact_says_at_the_output_of_blocks() -> None:
    footprint = spec().footprint({"vectors": PARAMS})
    assert (footprint.steered_blocks, footprint.positions, footprint.strength) == ((5,), "decode", "0.5")
    assert (footprint.operator, footprint.points) == ("add", ("resid_post",))
    assert spec(blocks=(3,)).footprint({"vectors": PARAMS}).steered_blocks == (3,)


def test_ablate_acts_at_both_points_of_every_block_and_everywhere() -> None:
    footprint = spec(mode="ablate").footprint({"vectors": PARAMS})
    assert (footprint.steered_blocks, footprint.positions, footprint.strength) == ((0, 1, 2), "all", "1.0")
    assert (footprint.operator, footprint.points) == ("ablate", ("resid_pre", "resid_post"))
    narrow = spec(mode="ablate", blocks=(3,), positions="prefill").footprint({"vectors": PARAMS})
    assert (narrow.steered_blocks, narrow.positions) == ((3,), "prefill")


def test_features_follow_the_mode() -> None:
    assert spec().features() == {"operator.add", "hook.resid_post", "gate.verdict"}
    assert {"operator.ablate", "hook.resid_pre"} < spec(mode="ablate").features()


def test_ablate_removes_at_most_the_whole_component() -> None:
    assert spec(mode="ablate", coefficient=1.0).coefficient == 1.0
    assert spec(coefficient=1.5).coefficient == 1.5
    with pytest.raises(ValidationError, match="at most 1"):
        spec(mode="ablate", coefficient=1.5)


@pytest.mark.parametrize("blocks", [None, [], "012", [2, 1], [1, 1], [True], [-1], ["1"]])
def test_an_artifact_without_a_list_of_blocks_cannot_be_ablated(blocks: object) -> None:
    params = {**PARAMS, "ablated_blocks": blocks}
    assert spec().footprint({"vectors": params}).steered_blocks == (5,)
    with pytest.raises(ArtifactFormatError, match="ablated_blocks"):
        spec(mode="ablate").footprint({"vectors": params})


@pytest.mark.parametrize("mode", ["add", "ablate"])
def test_a_schedule_of_several_vectors_is_refused(mode: str) -> None:
    params = {"blocks": [5], "strength": "1.0", "schedule": "by_phase", "ablated_blocks": [0]}
    with pytest.raises(ArtifactFormatError, match="schedule"):
        spec(mode=mode).footprint({"vectors": params})


def test_a_summary_says_where_and_that_ablation_takes_refusals_away() -> None:
    assert "adds 1.0 times the refusal direction" in spec().summary()
    assert "decoder blocks 3" in spec(mode="ablate", blocks=(3,)).summary()
    assert "takes refusals away" in spec(mode="ablate").summary()
    assert not spec().needs_buffered_stream()
