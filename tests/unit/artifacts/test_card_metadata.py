"""Front matter in the Hub's convention, checked with the Hub client's own classes."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from tests.unit.artifacts.test_publishable import side_effects
from tests.vetting_suites import vetted_artifact

from steerguard.artifacts.card_metadata import (
    card_body,
    card_metadata,
    check_front_matter,
    front_matter,
    with_front_matter,
)
from steerguard.artifacts.licenses import HUB_LICENSES, license_fields
from steerguard.errors import ArtifactFormatError
from steerguard.registry.local import embedded_registry

BODY = "# A probe\n\nText with --- and: colons.\n"


def manifests():
    registry = embedded_registry()
    return [registry.pin(entry).manifest for entry in registry.entries()]


def metadata(**changed):
    manifest = manifests()[0].model_copy(update=changed)
    return card_metadata(manifest, side_effects(manifest))


@pytest.mark.parametrize("manifest", manifests(), ids=lambda one: one.family)
def test_the_hubs_own_classes_read_what_is_written(manifest):
    expected = card_metadata(manifest, side_effects(manifest))
    card = ModelCard(with_front_matter(BODY, expected))
    assert isinstance(card.data, ModelCardData)
    assert card.data.to_dict() == expected
    # And once more through what they write themselves.
    assert ModelCard(str(card)).data.to_dict() == expected
    assert card.text.strip() == BODY.strip()
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.library_name == "steerguard"


def test_every_figure_is_an_evaluation_result():
    name, results = model_index_to_eval_results(metadata()["model-index"])
    assert name == f"{manifests()[0].family}/smollm2-135m-instruct"
    assert [result.metric_type for result in results] == ["over_refusal", "coherence", "overhead"]
    assert {result.metric_value for result in results} == {0.05}
    assert {result.dataset_name for result in results} == {"own benign prompts, held_out"}
    assert len({result.unique_identifier for result in results}) == 3
    assert results[0].metric_args["n"] == 20


def test_without_side_effects_there_is_no_index():
    manifest = manifests()[0]
    assert "model-index" not in card_metadata(manifest, None)
    card = ModelCard(with_front_matter(BODY, card_metadata(manifest, None)))
    assert card.data.eval_results is None


def test_a_name_that_cannot_be_on_the_hub_is_left_out():
    data = card_metadata(vetted_artifact().manifest, None)
    assert "base_model" not in data
    assert "base_model_relation" not in data


def test_every_embedded_artifact_has_a_tag_of_its_kind():
    tags = [card_metadata(manifest, None)["tags"] for manifest in manifests()]
    assert all(tag[:2] == ["steerguard", "safety"] for tag in tags)
    assert {"probe", "steering-vector", "cost-model"} <= {tag[2] for tag in tags}


def test_own_fields_and_tags_of_a_card_are_kept():
    card = "---\nlanguage: no\nlicense: mit\ntags: [mine, safety]\nbase_model: old/one\nlicense_name: x\n---\n" + BODY
    written = with_front_matter(card, metadata())
    found = ModelCard(written).data
    # Norwegian, not a truth value.
    assert found.language == "no"
    assert found.license == "apache-2.0"
    assert found.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert found.license_name is None
    assert found.tags[-1] == "mine"
    assert found.tags.count("safety") == 1
    assert written.endswith(BODY)


def test_writing_it_twice_changes_nothing():
    once = with_front_matter(BODY, metadata())
    assert with_front_matter(once, metadata()) == once
    check_front_matter(once, metadata())


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ("---\nlicense: [mit\n---\n", "not YAML"),
        ("---\n- mit\n---\n", "no mapping"),
        ("---\nlicense: mit\n", "not closed"),
        ("---\nlicense: !!python/object/apply:os.getcwd []\n---\n", "not YAML"),
        (f"---\nlong: {'x' * 70_000}\n---\n", "too large"),
        ("---\nx: 2001-99-99\n---\n", "not YAML"),
    ],
)
def test_front_matter_that_cannot_be_read_is_refused(card, said):
    with pytest.raises(ArtifactFormatError, match=said):
        front_matter(card)


def test_a_card_without_front_matter_has_none():
    assert front_matter(BODY) is None
    assert card_body(BODY) == BODY
    with pytest.raises(ArtifactFormatError, match="no front matter"):
        check_front_matter(BODY, metadata())


@pytest.mark.parametrize(
    ("spdx", "expected"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("MIT OR Apache-2.0", {"license": "other", "license_name": "mit-or-apache-2.0"}),
        ("LicenseRef-Mine", {"license": "other", "license_name": "licenseref-mine"}),
        ("???", {"license": "other", "license_name": "unnamed"}),
    ],
)
def test_licences_are_spelled_as_the_hub_spells_them(spdx, expected):
    assert license_fields(spdx) == expected


def test_licence_names_are_names():
    assert all(name == name.lower() and " " not in name for name in HUB_LICENSES)
    assert yaml.safe_load("license: apache-2.0")["license"] in HUB_LICENSES
