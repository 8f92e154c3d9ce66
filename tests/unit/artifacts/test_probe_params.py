"""The parts of a probe: what `params` may state, and the feature that goes with the prompt mean."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from steerguard.artifacts.manifest import KNOWN_FEATURES
from steerguard.artifacts.probe_params import (
    ANSWER_FEATURE,
    COSINE_FEATURE,
    PROMPT_MEAN_FEATURE,
    AnswerReading,
    answer_reading,
    probe_params,
    probe_parts,
    similarity_of,
)
from steerguard.errors import ArtifactFormatError

PARTS = ((12, "prompt_mean"), (15, "end"), (16, "end"), (16, "prompt_mean"))
MEANS = ("probe.linear", PROMPT_MEAN_FEATURE)


def manifest(params, features=("probe.linear",), method="linear_probe"):
    return SimpleNamespace(
        params=params,
        requires=SimpleNamespace(features=features),
        base=SimpleNamespace(num_blocks=30),
        method=method,
    )


def test_params_without_over_read_the_end_everywhere_and_stay_as_they_were():
    ends = ((15, "end"), (16, "end"))
    params = {"blocks": [15, 16], "read": "generation_prompt_end", "reduce": "mean"}
    assert probe_parts(manifest(params)) == ends
    assert probe_params(ends) == params
    assert probe_parts(manifest({**params, "over": ["end", "end"]})) == ends


def test_parts_survive_the_params():
    params = probe_params(PARTS)
    assert params["blocks"] == [12, 15, 16, 16]
    assert params["over"] == ["prompt_mean", "end", "end", "prompt_mean"]
    assert probe_parts(manifest(params, MEANS)) == PARTS


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"blocks": None}, "params.blocks"),
        ({"blocks": []}, "params.blocks"),
        ({"blocks": 15}, "params.blocks"),
        ({"blocks": ["15", "16"]}, "params.blocks"),
        ({"blocks": [True, 16]}, "params.blocks"),
        ({"blocks": [15, 30]}, "params.blocks"),
        ({"blocks": [-1, 16]}, "params.blocks"),
        ({"blocks": [16, 16], "over": ["prompt_mean", "prompt_mean"]}, "params.blocks"),
        ({"blocks": [16, 16], "over": None}, "params.blocks"),
        ({"over": ["prompt_mean"]}, "params.over"),
        ({"over": ["prompt_mean", "end", "end"]}, "params.over"),
        ({"over": ["prompt_mean", "last"]}, "params.over"),
        ({"over": ["prompt_mean", None]}, "params.over"),
        ({"over": "prompt_mean"}, "params.over"),
    ],
)
def test_what_is_not_a_list_of_parts_is_refused(changed, where):
    with pytest.raises(ArtifactFormatError) as caught:
        probe_parts(manifest({"blocks": [15, 16], "over": ["prompt_mean", "end"], **changed}, MEANS))
    assert caught.value.where == f"manifest.json: {where}"


@pytest.mark.parametrize(("over", "features"), [(["end"], MEANS), (None, MEANS), (["prompt_mean"], MEANS[:1])])
def test_the_feature_is_required_exactly_when_it_is_used(over, features):
    with pytest.raises(ArtifactFormatError, match="exactly when") as caught:
        probe_parts(manifest({"blocks": [15], "over": over}, features))
    assert caught.value.where == "manifest.json: requires.features"


def test_this_version_knows_the_feature():
    assert PROMPT_MEAN_FEATURE in KNOWN_FEATURES


@pytest.mark.parametrize(
    ("method", "features"), [("cosine", ("probe.linear",)), ("linear_probe", ("probe.linear", COSINE_FEATURE))]
)
def test_the_cosine_feature_is_required_exactly_with_the_method(method, features):
    params = {"blocks": [15], "similarity": "direction"}
    assert COSINE_FEATURE in KNOWN_FEATURES
    with pytest.raises(ArtifactFormatError, match=COSINE_FEATURE):
        probe_parts(manifest(params, features, method))
    assert probe_parts(manifest(params, (COSINE_FEATURE,), "cosine")) == ((15, "end"),)


@pytest.mark.parametrize("stated", [None, "tanh", 1])
def test_a_similarity_that_is_not_known_is_refused(stated):
    assert similarity_of(manifest({"similarity": "tanh_projection"})) == "tanh_projection"
    with pytest.raises(ArtifactFormatError, match="similarity"):
        similarity_of(manifest({"similarity": stated} if stated is not None else {}))


READING = AnswerReading(tokens=48, first=1, every=4, in_a_row=2)
ANSWERS = probe_params(((16, "end"),), READING)


def test_the_reading_of_answers_survives_the_params():
    assert answer_reading(manifest(ANSWERS, ("probe.linear", ANSWER_FEATURE))) == READING
    assert ANSWERS == {
        "blocks": [16],
        "read": "answer",
        "reduce": "mean",
        "tokens": 48,
        "first": 1,
        "every": 4,
        "in_a_row": 2,
    }
    assert answer_reading(manifest(probe_params(PARTS), MEANS)) is None


def test_a_probe_of_answers_requires_its_feature_and_only_such_a_one():
    assert ANSWER_FEATURE in KNOWN_FEATURES
    assert probe_parts(manifest(ANSWERS, ("probe.linear", ANSWER_FEATURE))) == ((16, "end"),)
    with pytest.raises(ArtifactFormatError, match=ANSWER_FEATURE):
        probe_parts(manifest(ANSWERS))
    with pytest.raises(ArtifactFormatError, match=ANSWER_FEATURE):
        probe_parts(manifest(probe_params(((16, "end"),)), ("probe.linear", ANSWER_FEATURE)))


@pytest.mark.parametrize("name", ["tokens", "first", "every", "in_a_row"])
@pytest.mark.parametrize("value", [None, 0, -1, "4", True, 1.0])
def test_a_reading_without_whole_numbers_from_one_on_is_refused_by_field(name, value):
    with pytest.raises(ArtifactFormatError) as caught:
        answer_reading(manifest({**ANSWERS, name: value}))
    assert caught.value.where == f"manifest.json: params.{name}"


def test_a_first_read_behind_every_token_is_refused():
    with pytest.raises(ArtifactFormatError, match="first"):
        answer_reading(manifest({**ANSWERS, "first": 48}))
