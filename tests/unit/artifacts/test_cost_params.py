"""What the `params` of a cost model may state."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from steerguard.artifacts.cost_params import COST_FEATURE, CostParams, cost_params, response_state_params
from steerguard.artifacts.manifest import KNOWN_FEATURES
from steerguard.errors import ArtifactFormatError

PARAMS = {
    "blocks": [12, 16, 20],
    "read": "answer",
    "reduce": "mean",
    "unit": "log-odds",
    "threshold": "-0.25",
    "layers": 1,
}


def manifest(params, kind="cost_model", features=(COST_FEATURE,)):
    return SimpleNamespace(
        type=kind,
        params=params,
        reference="harm-cost/tiny@1.0.0",
        requires=SimpleNamespace(features=features),
        base=SimpleNamespace(num_blocks=30),
    )


@pytest.mark.parametrize("kind", ["cost_model", "critic"])
def test_both_types_state_a_cost_model(kind):
    stated = cost_params(manifest(PARAMS, kind))
    assert stated == CostParams(blocks=(12, 16, 20), unit="log-odds", threshold=-0.25, layers=1)


@pytest.mark.parametrize(("threshold", "layers"), [(-0.25, 1), (0.1, 2), (1e-30, 1), (123456.789, 2)])
def test_params_survive_being_written(threshold, layers):
    written = response_state_params((20, 4), threshold=threshold, layers=layers)
    read = cost_params(manifest(written))
    assert read.blocks == (20, 4)
    assert read.layers == layers
    assert read.threshold == pytest.approx(threshold, rel=1e-6)
    assert response_state_params(read.blocks, threshold=read.threshold, layers=read.layers) == written


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"blocks": None}, "params.blocks"),
        ({"blocks": []}, "params.blocks"),
        ({"blocks": [30]}, "params.blocks"),
        ({"blocks": [-1]}, "params.blocks"),
        ({"blocks": [True]}, "params.blocks"),
        ({"blocks": ["12"]}, "params.blocks"),
        ({"blocks": [12, 12]}, "params.blocks"),
        ({"read": "generation_prompt_end"}, "params.read"),
        ({"reduce": "last"}, "params.reduce"),
        ({"unit": ""}, "params.unit"),
        ({"unit": 1}, "params.unit"),
        ({"threshold": None}, "params.threshold"),
        ({"threshold": 0.5}, "params.threshold"),
        ({"threshold": "high"}, "params.threshold"),
        ({"threshold": "NaN"}, "params.threshold"),
        ({"threshold": "Infinity"}, "params.threshold"),
        ({"threshold": "1e60"}, "params.threshold"),
        ({"threshold": "1e999999"}, "params.threshold"),
        ({"layers": 0}, "params.layers"),
        ({"layers": 3}, "params.layers"),
        ({"layers": True}, "params.layers"),
        ({"layers": "1"}, "params.layers"),
    ],
)
def test_other_params_are_refused_by_field(changed, where):
    with pytest.raises(ArtifactFormatError) as refused:
        cost_params(manifest({**PARAMS, **changed}))
    assert where in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "features"), [("probe", (COST_FEATURE,)), ("cost_model", ("probe.linear",)), ("critic", ())]
)
def test_other_artifacts_hold_no_cost_model(kind, features):
    with pytest.raises(ArtifactFormatError, match="holds no cost model"):
        cost_params(manifest(PARAMS, kind, features))


def test_this_version_knows_the_feature():
    assert {COST_FEATURE, "critic.safety_value"} <= KNOWN_FEATURES
