"""Recipes are strict, and errors name the field."""

from __future__ import annotations

import pytest

from steerguard.build.contrast import load_contrast
from steerguard.build.recipe import load_recipe, parse_recipe
from steerguard.content import registry_directory
from steerguard.errors import RecipeError


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("steps: 2", "steps: 0", "artifact.donor.steps"),
        ("steps: 2", "steps: two", "artifact.donor.steps"),
        ("batch_size: 4\n    learning", "batch_size: 3\n    learning", "artifact.donor.batch_size"),
        ("learning_rate", "learning_rat", "artifact.donor.learning_rat"),
        ("type: steering_vectors", "type: steering", "artifact"),
        ("version: 1.0.0", "version: 1.0", "metadata.version"),
        ('strength: "0.5"', "strength: 0.5", "artifact.strength"),
        ("train_blocks: [1, 2]", "train_blocks: [2, 1]", "artifact.donor.train_blocks"),
        ("kind: BuildRecipe", "kind: GuidancePolicy", "kind"),
        ("weights: [float32]", "weights: [int8]", "fingerprint.weights"),
        ("fingerprint: {blocks: [1, 2, 3]", "fingerprint: {blocks: [1, 2]", "fingerprint.blocks"),
    ],
)
def test_a_wrong_field_is_refused_by_name(workshop, old, new, field):
    workshop.recipe()
    with pytest.raises(RecipeError) as caught:
        workshop.recipe(**{old: new})
    assert field in str(caught.value)


def test_yaml_outside_the_strict_subset_is_refused():
    with pytest.raises(RecipeError, match="anchor"):
        parse_recipe("kind: &a BuildRecipe\n", file="recipe.yaml", folder=None)


def test_a_missing_recipe_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml")


def test_a_missing_prompt_file_is_refused_by_field(workshop):
    recipe = workshop.recipe()
    (workshop.folder / "benign.jsonl").unlink()
    with pytest.raises(RecipeError) as caught:
        load_contrast(recipe)
    assert caught.value.where == "prompts.benign"


def test_a_malformed_prompt_row_is_refused_without_its_text(workshop):
    recipe = workshop.recipe()
    row = '{"id": "b", "split": "test", "kind": "k", "messages": [{"role": "user", "content": "secret words"}]}'
    (workshop.folder / "benign.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_contrast(recipe)
    assert caught.value.found == "split"
    assert "secret" not in str(caught.value)


def test_splits_and_kinds_are_kept_apart(workshop):
    benign = load_contrast(workshop.recipe()).benign
    assert [len(benign.split(name)) for name in ("build", "held_out", "calibration")] == [4, 4, 4]
    assert set(benign.without_kinds(("odd",)).kinds) == {"even"}


@pytest.mark.parametrize(
    "name",
    [
        "inferaligner",
        "refusal-vectors",
        "harmful-intent",
        "refusal-direction",
        "harmful-condition",
        "harm-cost",
        "harm-critic",
    ],
)
def test_shipped_recipes_load_and_find_their_prompts(name):
    recipe = load_recipe(registry_directory() / "recipes" / f"{name}.yaml")
    assert recipe.document.metadata.family == name
    data = load_contrast(recipe)
    assert not set(data.harmful.split("build").ids) & set(data.harmful.split("held_out").ids)


def test_the_shipped_condition_lies_below_the_window_of_the_shipped_refusal_direction():
    """So a policy of these two alone reads each prompt once, as the authors of CAST place them."""
    recipes = registry_directory() / "recipes"
    condition = load_recipe(recipes / "harmful-condition.yaml").document.artifact
    direction = load_recipe(recipes / "refusal-direction.yaml").document.artifact
    assert max(block for block, _ in condition.parts) <= direction.blocks[0]


@pytest.mark.parametrize("family", ["inferaligner-steps", "refusal-vectors"])
def test_a_shipped_probe_lies_at_or_below_the_first_steered_block(family):
    recipes = registry_directory() / "recipes"
    probe = load_recipe(recipes / "harmful-intent.yaml").document.artifact
    vectors = load_recipe(recipes / f"{family}.yaml").document.artifact
    lists = vectors.block_lists()
    steered = [blocks for field, blocks in lists.items() if "donor" not in field]
    assert max(*probe.blocks, *probe.mean_blocks) <= min(min(blocks) for blocks in steered)


def test_only_the_fitted_family_is_fitted():
    recipes = registry_directory() / "recipes"
    assert load_recipe(recipes / "inferaligner.yaml").document.artifact.method == "inferaligner"
    assert load_recipe(recipes / "refusal-vectors.yaml").document.artifact.method == "fitted_refusal"
