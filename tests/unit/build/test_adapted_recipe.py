"""A recipe for another model: scaled blocks, and a text that is a recipe again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerguard.build.adapted_recipe import adapted_recipe, scaled_block
from steerguard.build.recipe import load_recipe, parse_recipe
from steerguard.content import registry_directory
from steerguard.errors import RecipeError

DEEP = """\
apiVersion: steerguard/v1alpha1
kind: BuildRecipe
metadata: {family: inferaligner, variant: deep, version: 1.0.0, description: "Deep: é and so on.", created: "2026-01-01T00:00:00Z"}
base: {repo: example/deep, source: somewhere, num_blocks: 30}
prompts: {harmful: harmful.jsonl, benign: benign.jsonl}
artifact:
  type: steering_vectors
  donor:
    refusal: I can't help.
    train_blocks: [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    steps: 2
    batch_size: 4
    learning_rate: 0.00001
    benign_answer_tokens: 3
  search:
    windows: [[16, 19], [16, 18], [10, 19]]
    strengths: ["0.5", "1.0"]
    prompts_harmful: 3
    prompts_benign: 2
    max_new_tokens: 4
    max_repetition: 1.0
    min_strict: 0.0
    max_perplexity: 1000.0
fingerprint: {blocks: [12, 18, 24], weights: [float32]}
"""
PROBE = """\
artifact:
  type: probe
  estimator: lda
  search: {blocks: [[15, 16], [15], [10, 13, 16]]}
"""
NAMES = {"variant": "my-model", "repo": "mine", "source": "my weights"}


def parsed(text=DEEP):
    return parse_recipe(text, file="recipe.yaml", folder=None)


def test_every_list_of_blocks_is_scaled_and_nothing_else_changes():
    recipe = parsed()
    scaled = adapted_recipe(recipe, **NAMES, num_blocks=12).document
    assert scaled.artifact.donor.train_blocks == (2, 3, 4, 5, 6)
    assert scaled.artifact.search.windows == ((6, 7), (4, 7))
    assert scaled.fingerprint.blocks == (5, 7, 9)
    assert scaled.base.num_blocks == 12
    assert (scaled.metadata.variant, scaled.base.repo, scaled.base.source) == ("my-model", "mine", "my weights")
    assert scaled.metadata.description == recipe.document.metadata.description
    assert scaled.artifact.donor.learning_rate == recipe.document.artifact.donor.learning_rate
    assert scaled.artifact.search.strengths == ("0.5", "1.0")


def test_lists_of_a_probe_search_are_scaled_and_equal_ones_are_tried_once():
    text = DEEP[: DEEP.index("artifact:")] + PROBE + DEEP[DEEP.index("fingerprint:") :]
    scaled = adapted_recipe(parsed(text), **NAMES, num_blocks=10).document
    assert scaled.artifact.search.blocks == ((5,), (3, 4, 5))
    with_means = text.replace("search: {", "search: {mean_blocks: [[], [15, 16], [16]], ")
    assert adapted_recipe(parsed(with_means), **NAMES, num_blocks=10).document.artifact.search.mean_blocks == ((), (5,))


def test_the_adapted_text_is_the_recipe_that_is_recorded():
    scaled = adapted_recipe(parsed(), **NAMES, num_blocks=12)
    assert parsed(scaled.text).document == scaled.document
    assert "scaled from 30 to 12" in scaled.text.splitlines()[0]


def test_the_same_depth_changes_no_block():
    recipe = parsed()
    same = adapted_recipe(recipe, **NAMES, num_blocks=30).document
    assert (same.artifact, same.fingerprint) == (recipe.document.artifact, recipe.document.fingerprint)


def test_without_a_depth_only_the_names_change():
    adapted = adapted_recipe(parsed(), **NAMES).document
    assert adapted.artifact == parsed().document.artifact
    assert adapted.base.num_blocks == 30


def test_a_recipe_that_does_not_say_its_depth_cannot_be_scaled():
    with pytest.raises(RecipeError) as caught:
        adapted_recipe(parsed(DEEP.replace(", num_blocks: 30", "")), **NAMES, num_blocks=12)
    assert caught.value.where == "base.num_blocks"


def test_too_few_blocks_for_a_fingerprint_are_refused_by_field():
    with pytest.raises(RecipeError, match=r"fingerprint\.blocks"):
        adapted_recipe(parsed(), **NAMES, num_blocks=2)


@pytest.mark.parametrize("variant", ["My Model", "", "a/b"])
def test_a_variant_that_is_no_name_is_refused(variant):
    with pytest.raises(RecipeError, match=r"metadata\.variant"):
        adapted_recipe(parsed(), **{**NAMES, "variant": variant})


@given(st.integers(1, 128), st.integers(1, 128), st.data())
def test_scaling_keeps_order_and_range(depth, other, data):
    blocks = data.draw(st.lists(st.integers(0, depth - 1), min_size=2, max_size=2))
    low, high = sorted(scaled_block(block, depth, other) for block in blocks)
    assert 0 <= low <= high < other
    assert scaled_block(min(blocks), depth, other) == low
    assert scaled_block(blocks[0], depth, depth) == blocks[0]


@pytest.mark.parametrize("name", ["inferaligner", "harmful-intent", "harm-cost"])
def test_shipped_recipes_can_be_adapted(name):
    recipe = load_recipe(registry_directory() / "recipes" / f"{name}.yaml")
    adapted = adapted_recipe(recipe, **NAMES)
    assert adapted.document.artifact == recipe.document.artifact
