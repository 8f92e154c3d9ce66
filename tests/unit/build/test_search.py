"""A whole build with a search on a tiny model: the table, the chosen settings, resuming, limits."""

from __future__ import annotations

import json

import pytest
import torch

from steerguard.artifacts.verify import verify_artifact
from steerguard.build import donor_kinds
from steerguard.build import search as search_module
from steerguard.build.search import settings_of
from steerguard.build.steps import SilentProgress
from steerguard.errors import BuildError, RecipeError

DONOR = """\
artifact:
  type: steering_vectors
  donor:
    refusal: I can't help.
    train_blocks: [1, 2]
    steps: 2
    batch_size: 4
    learning_rate: 0.01
    benign_answer_tokens: 3
"""
SEARCH = (
    DONOR
    + """\
  search:
    windows: [[2, 3], [3, 3]]
    positions: [all, decode]
    strengths: ["0.5", "1.0"]
    estimators: [ssv_minus_srv, by_step]
    prompts_harmful: 3
    prompts_benign: 2
    max_new_tokens: 4
    max_repetition: 1.0
    min_strict: 0.0
    max_perplexity: 1000000.0
    weights: float32
    batch_size: 2
"""
)
# Constant vectors: 2 windows x 2 positions x 2 strengths; the schedule has no positions.
SETTINGS = 8 + 4


def files_of(built):
    return {
        path.relative_to(built.folder).as_posix(): path.read_bytes()
        for path in built.folder.rglob("*")
        if path.is_file()
    }


def test_every_combination_is_tried_once_and_schedules_without_positions(workshop):
    recipe = workshop.recipe(SEARCH).document.artifact
    listed = list(settings_of(recipe, recipe.search))
    assert len(listed) == len(set(listed)) == SETTINGS
    assert {one.positions for one in listed if one.estimator == "by_step"} == {None}
    assert {one.blocks for one in listed} == {(2, 3), (3,)}


def test_a_list_that_is_left_out_is_the_single_value_of_the_recipe(workshop):
    text = SEARCH.replace("    windows: [[2, 3], [3, 3]]\n", "").replace("    positions: [all, decode]\n", "")
    recipe = workshop.recipe(text + "  blocks: [1, 3]\n  positions: decode\n").document.artifact
    listed = list(settings_of(recipe, recipe.search))
    assert {one.blocks for one in listed} == {(1, 3)}
    assert {one.positions for one in listed} == {"decode", None}


def test_the_chosen_setting_becomes_the_params_and_the_table_is_in_card_and_benchmarks(workshop):
    built = workshop.build(workshop.recipe(SEARCH))
    artifact = verify_artifact(files_of(built), built.digest)
    rows = json.loads(files_of(built)["benchmarks.json"])["compared"]["vector_search"]
    assert len(rows) == SETTINGS
    (chosen,) = [row for row in rows if row["chosen"]]
    assert artifact.manifest.params["strength"] == chosen["strength"]
    assert any(row["pareto"] for row in rows)
    assert "## What was tried" in artifact.card
    assert artifact.card.count("| ssv_minus_srv |") == 8
    tensors = artifact.tensors["weights/vectors.safetensors"]
    steered = [
        block for block in range(4) if any(tensors[name][..., block, :].any() for name in tensors if "theta" in name)
    ]
    assert steered == artifact.manifest.params["blocks"]


def test_the_same_recipe_gives_the_same_bytes(workshop):
    recipe = workshop.recipe(SEARCH)
    assert workshop.build(recipe).digest == workshop.build(recipe).digest


@pytest.mark.parametrize("killed_at", [0, 1, 7])
def test_a_killed_search_continues_where_it_stopped(workshop, monkeypatch, killed_at):
    recipe, cache = workshop.recipe(SEARCH), workshop.folder / "cache"
    answer, calls = search_module.steered_answers, []

    def counted(*arguments, **settings):
        calls.append(1)
        # Two calls per setting: harmful and benign prompts.
        if len(calls) > 2 * killed_at + 1:
            raise KeyboardInterrupt
        return answer(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(search_module, "steered_answers", counted)
        with pytest.raises(KeyboardInterrupt):
            workshop.build(recipe, cache=cache)
    resumed = workshop.build(recipe, cache=cache)
    assert resumed.reused_steps.count("trial") == killed_at
    assert resumed.digest == workshop.build(recipe).digest


def test_raised_limits_reuse_the_answers(workshop):
    cache = workshop.folder / "cache"
    strict = workshop.recipe(SEARCH.replace("max_perplexity: 1000000.0", "max_perplexity: 1.5"))
    with pytest.raises(BuildError, match="within its limits"):
        workshop.build(strict, cache=cache)
    built = workshop.build(workshop.recipe(SEARCH), cache=cache)
    assert built.reused_steps.count("trial") == SETTINGS + 1


@pytest.mark.parametrize(
    ("old", "new"), [("prompts_harmful: 3", "prompts_harmful: 5"), ("prompts_benign: 2", "prompts_benign: 9")]
)
def test_more_prompts_than_the_build_split_has_are_refused_by_field(workshop, old, new):
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(SEARCH.replace(old, new)))
    assert caught.value.where == f"artifact.search.{old.split(':')[0]}"


def test_progress_counts_every_answer_up_to_the_total(workshop):
    told = {}

    class Told(SilentProgress):
        def step(self, name, total):
            told[name] = (total, [])
            return told[name][1].append

    from steerguard.build.artifact import build_artifact
    from steerguard.testing import tiny_model

    build_artifact(
        workshop.recipe(SEARCH), tiny_model("llama"), workshop.tokenizer, out=workshop.folder / "out", progress=Told()
    )
    total, seen = told["search"]
    assert total == (SETTINGS + 1) * 5
    assert seen == sorted(seen)
    assert seen[-1] == total


@pytest.mark.parametrize(
    "estimator", ["ssv", "cross", "cross_centred", "response_mean", "answer_contrast", "by_phase", "by_step"]
)
def test_every_estimator_makes_an_artifact_that_verifies(workshop, estimator):
    recipe = workshop.recipe(
        f'{DONOR}  estimator: {estimator}\n  response_tokens: 4\n  blocks: [2, 3]\n  strength: "0.5"\n'
    )
    built = workshop.build(recipe)
    artifact = verify_artifact(files_of(built), built.digest)
    tensors, params = artifact.tensors["weights/vectors.safetensors"], artifact.manifest.params
    names = {
        "by_phase": {"theta_prompt", "theta_last", "theta_decode"},
        "by_step": {"theta_prompt", "theta_last", "theta_steps"},
    }.get(estimator, {"theta"})
    assert set(tensors) == names | {"srv", "gate_bias"}
    schedule = estimator if estimator.startswith("by_") else "constant"
    assert f"schedule.{schedule}" in artifact.manifest.requires.features
    assert params.get("schedule", "constant") == schedule
    assert ("positions" in params) == (schedule == "constant")
    if estimator == "by_step":
        assert params["steps"] == 4
        assert tensors["theta_steps"].shape == torch.Size([4, 4, 32])


def test_a_donor_is_trained_once_without_a_cache(workshop, monkeypatch):
    trained, train = [], donor_kinds.train_donor

    def counted(*arguments, **settings):
        trained.append(1)
        return train(*arguments, **settings)

    monkeypatch.setattr(donor_kinds, "train_donor", counted)
    workshop.build(workshop.recipe(SEARCH))
    assert len(trained) == 1
