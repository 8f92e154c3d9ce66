"""Finding the variant that was made for this model."""

from __future__ import annotations

import dataclasses

import pytest
from tests.artifact_samples import sample_files, write_folder
from tests.guarded_models import policy, registry_for, shared_model, tokenizer

from steerguard.content import shipped_recipes
from steerguard.errors import ArtifactFormatError, ArtifactIntegrityError, ArtifactNotFoundError, MissingVariantError
from steerguard.models.inspect import inspect_model
from steerguard.plan.resolve import resolve_artifacts
from steerguard.registry.local import create_registry
from steerguard.testing import tiny_registry


@pytest.fixture
def facts():
    return inspect_model(shared_model(), tokenizer())


def test_every_reference_resolves_to_a_pinned_variant(facts):
    found = resolve_artifacts(policy(), facts, registry_for(shared_model()))
    assert set(found) == {"harmful-intent@^1", "inferaligner@^1"}
    assert {entry.pin.variant for entry in found.values()} == {"tiny"}
    assert found["harmful-intent@^1"].calibration is not None
    assert found["inferaligner@^1"].calibration is None


def test_an_unknown_family_is_not_found(facts, tmp_path):
    with pytest.raises(ArtifactNotFoundError):
        resolve_artifacts(policy(), facts, create_registry(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_blocks": 5}, "num_blocks"),
        ({"hidden_size": 64}, "hidden_size"),
        ({"decoder": "OtherModel"}, "decoder"),
        ({"tokenizer_sha256": "0" * 64}, "tokenizer_sha256"),
        ({"chat_template_sha256": "0" * 64}, "chat_template_sha256"),
        ({"dtype": "float16"}, "float16"),
    ],
)
def test_a_model_without_a_variant_is_told_what_differs_and_the_build_command(facts, changes, named):
    with pytest.raises(MissingVariantError, match="steerguard build harmful-intent") as caught:
        resolve_artifacts(policy(), dataclasses.replace(facts, **changes), registry_for(shared_model()))
    assert named in str(caught.value)


def test_the_build_command_names_a_shipped_recipe_and_a_model_folder(facts, tmp_path):
    folder = tmp_path / "My Model_2"
    folder.mkdir()
    misfit = dataclasses.replace(facts, num_blocks=5, name=str(folder))
    with pytest.raises(MissingVariantError) as caught:
        resolve_artifacts(policy(), misfit, registry_for(shared_model()))
    command = f"steerguard build harmful-intent --model '{folder}' --variant my-model-2 --scale-blocks --out"
    assert command in caught.value.next_step
    assert "harmful-intent" in shipped_recipes()


def test_a_name_on_the_hub_is_not_offered_as_a_model_folder(facts):
    misfit = dataclasses.replace(facts, num_blocks=5, name="example/on-the-hub")
    with pytest.raises(MissingVariantError, match="--model <model folder>"):
        resolve_artifacts(policy(), misfit, registry_for(shared_model()))


def test_a_family_without_a_shipped_recipe_asks_for_one(facts, tmp_path):
    registry = create_registry(tmp_path / "registry")
    registry.add(write_folder(tmp_path / "own", sample_files(family="own-vectors")))
    step = policy().guidance[0].model_copy(update={"artifact": "own-vectors@^1"})
    document = policy().model_copy(update={"detectors": (), "guidance": (step,)})
    with pytest.raises(MissingVariantError) as caught:
        resolve_artifacts(document, facts, registry)
    assert "steerguard build <recipe>.yaml" in caught.value.next_step
    assert "own-vectors" in caught.value.next_step


def test_an_artifact_of_another_type_is_refused(facts):
    document = policy()
    detector = document.detectors[0].model_copy(update={"artifact": "inferaligner@^1"})
    with pytest.raises(ArtifactFormatError, match="another type"):
        resolve_artifacts(document.model_copy(update={"detectors": (detector,)}), facts, registry_for(shared_model()))


def test_a_calibration_that_differs_from_its_digest_is_refused(facts, tmp_path):
    registry = tiny_registry(tmp_path / "registry", shared_model(), tokenizer())
    file = next((tmp_path / "registry").rglob("calibration.json"))
    file.write_bytes(file.read_bytes().replace(b'"n":99', b'"n":98'))
    with pytest.raises(ArtifactIntegrityError):
        resolve_artifacts(policy(), facts, registry)
