"""What the keys of cached steps tell apart: batches of forwards, and where a prompt mean begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from steerguard.build import probe_search, steps
from steerguard.build.contrast import load_contrast
from steerguard.build.donor_kinds import own_first_ids
from steerguard.build.recipe import parse_recipe
from steerguard.build.step_cache import StepCache
from steerguard.build.steps import BuildContext, SilentProgress, fingerprints_of, part_states_of, residuals_of
from steerguard.build.vector_inputs import VectorInputs
from steerguard.models.inspect import inspect_model
from steerguard.testing import tiny_model

DONOR = """\
artifact:
  type: steering_vectors
  donor: {kind: system_prompt, system: Refuse., refusal: No., max_prompts: 2}
  blocks: [2, 3]
  strength: "0.5"
"""
PROBE = """\
artifact:
  type: probe
  blocks: [1]
  mean_blocks: [2]
  estimator: mean_difference
  folds: 2
  calibration_weights: float32
"""
MEANS = [(1, "end"), (2, "prompt_mean")]


def context_of(workshop, recipe, folder):
    model = tiny_model("llama")
    return BuildContext(
        recipe=recipe,
        model=model,
        tokenizer=workshop.tokenizer,
        facts=inspect_model(model, workshop.tokenizer),
        data=load_contrast(recipe),
        cache=StepCache(folder),
        progress=SilentProgress(),
        model_digest="sha256:0",
    )


def in_other_batches(recipe):
    text = recipe.text.replace("batch_size: 4\n", "batch_size: 3\n", 1)
    assert text != recipe.text
    return parse_recipe(text, file="recipe.yaml", folder=recipe.folder)


def read(context, name):
    prompts = context.data.harmful.split("build")
    match name:
        case "residuals":
            residuals_of(context, prompts, weights="float32", step="")
        case "part-states":
            part_states_of(context, prompts, MEANS, weights="float32", step="")
        case "own-answers":
            own_first_ids(context, prompts, 2)
        case "donor-residuals":
            VectorInputs(context, context.recipe.document.artifact.donor).residuals()
        case "donor-answer-means" | "answer-means":
            VectorInputs(context, context.recipe.document.artifact.donor).answers(with_benign=False)
        case "fingerprint":
            fingerprints_of(context)
    return context.cache.reused


@pytest.mark.parametrize(
    "name", ["residuals", "part-states", "own-answers", "donor-residuals", "answer-means", "donor-answer-means"]
)
def test_states_of_other_batches_are_other_steps(workshop, tmp_path, name):
    recipe = workshop.recipe(DONOR)
    read(context_of(workshop, recipe, tmp_path / "cache"), name)
    assert name in read(context_of(workshop, recipe, tmp_path / "cache"), name)
    assert name not in read(context_of(workshop, in_other_batches(recipe), tmp_path / "cache"), name)


def test_steps_on_another_kind_of_device_are_other_steps_and_those_of_the_cpu_keep_their_keys(workshop, tmp_path):
    context = context_of(workshop, workshop.recipe(DONOR), tmp_path / "cache")
    identity = context.identity()
    assert set(identity) == {"weights", "tokenizer", "template"}
    elsewhere = replace(context, model=context.model.to("meta"))
    assert elsewhere.identity() == {**identity, "device": "meta"}


def test_a_fingerprint_has_a_batch_of_its_own_and_is_shared(workshop, tmp_path):
    recipe = workshop.recipe(DONOR)
    read(context_of(workshop, recipe, tmp_path / "cache"), "fingerprint")
    assert read(context_of(workshop, in_other_batches(recipe), tmp_path / "cache"), "fingerprint") == ["fingerprint"]


def test_prompt_means_that_begin_elsewhere_are_other_steps(workshop, tmp_path, monkeypatch):
    recipe = workshop.recipe(DONOR)
    read(context_of(workshop, recipe, tmp_path / "cache"), "part-states")
    monkeypatch.setattr(steps, "SKIPPED_TOKENS", 5)
    assert read(context_of(workshop, recipe, tmp_path / "cache"), "part-states") == []


@pytest.mark.parametrize("changed", ["batch_size", "skipped_tokens"])
def test_fits_on_other_states_are_other_steps(workshop, tmp_path, monkeypatch, changed):
    search = PROBE.replace("  estimator: mean_difference\n", "  search: {estimators: [mean_difference, lda]}\n")
    recipe = workshop.recipe(search, "harmful-intent")
    first = workshop.build(recipe, cache=tmp_path / "cache")
    assert "probe-fold" in workshop.build(recipe, cache=tmp_path / "cache").reused_steps
    if changed == "batch_size":
        recipe = in_other_batches(recipe)
    else:
        monkeypatch.setattr(probe_search, "SKIPPED_TOKENS", 5)
    again = workshop.build(recipe, cache=tmp_path / "cache")
    assert "probe-fold" not in again.reused_steps
    assert "probe-fold" not in first.reused_steps
