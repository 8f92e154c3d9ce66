"""Builds of conditions that compare by cosine: directions, calibration, card."""

from __future__ import annotations

import json

import pytest
import torch

from steerguard.artifacts.verify import verify_artifact
from steerguard.build.condition_artifact import directions
from steerguard.detect.cosine import compared_with, cosine
from steerguard.errors import BuildError, RecipeError
from steerguard.models.capture import capture_residuals
from steerguard.testing import tiny_model

CONDITION = """\
artifact:
  type: probe
  method: cosine
  blocks: [1]
  mean_blocks: [0]
  calibration_weights: float32
"""


def verified(built):
    files = {path.relative_to(built.folder).as_posix(): path for path in built.folder.rglob("*") if path.is_file()}
    return verify_artifact({name: path.read_bytes() for name, path in files.items()}, built.digest)


def test_a_condition_holds_directions_and_calibrated_cosines(workshop):
    built = workshop.build(workshop.recipe(CONDITION, "condition"))
    artifact = verified(built)
    assert (artifact.manifest.type, artifact.manifest.method) == ("probe", "cosine")
    assert {"probe.cosine", "probe.prompt_mean"} < set(artifact.manifest.requires.features)
    assert artifact.manifest.params["similarity"] == "tanh_projection"
    direction = artifact.tensors["weights/probe.safetensors"]["direction"]
    assert torch.allclose(direction.norm(dim=1), torch.ones(2))
    rows = [json.loads(line) for line in (workshop.folder / "benign.jsonl").read_text().splitlines()]
    chats = [row["messages"] for row in rows if row["split"] == "calibration"]
    states = capture_residuals(
        tiny_model("llama"), workshop.tokenizer, chats, [0, 1], over=["prompt_mean", "end"], batch_size=4
    )
    expected = sum(
        cosine(states[:, part], compared_with(states[:, part], direction[part], "tanh_projection")) / 2
        for part in range(2)
    )
    assert [float(text) for text in artifact.calibration.benign_scores] == pytest.approx(
        sorted(expected.tolist()), abs=1e-6
    )
    assert "first" not in artifact.card.split("## How it was made")[0]
    assert "estimator pca pairs" in artifact.card


def test_the_same_recipe_gives_the_same_bytes(workshop):
    recipe = workshop.recipe(CONDITION, "condition")
    assert workshop.build(recipe).digest == workshop.build(recipe).digest


def test_a_logistic_regression_separates_prompts_that_differ_most_in_something_else():
    """Length and shape spread prompts more than harm does: a first component finds them, the classes differ elsewhere."""
    generator = torch.Generator().manual_seed(0)
    spread, told = torch.eye(16)[0], torch.eye(16)[1]
    harmful, benign = (
        torch.randn(300, 1, 16, generator=generator)
        + 20 * torch.randn(300, 1, 1, generator=generator) * spread
        + side * 2 * told
        for side in (1, -1)
    )
    by_pairs, by_regression = (
        directions(harmful, benign, estimator, seed=0)[0] for estimator in ("pca_pairs", "logistic_regression")
    )
    assert abs(by_pairs @ spread) > 0.95
    assert by_regression @ told > 0.95


def test_penalty_and_weight_type_reach_the_artifact_and_its_card(workshop):
    settings = CONDITION + "  estimator: logistic_regression\n  inverse_penalty: PENALTY\n"
    file = "weights/probe.safetensors"
    strong, weak, half = (
        verified(workshop.build(workshop.recipe(settings.replace("PENALTY", penalty) + more, "condition")))
        for penalty, more in (("0.001", ""), ("10.0", ""), ("10.0", "  weights: bfloat16\n"))
    )
    assert (strong.tensors[file]["direction"] != weak.tensors[file]["direction"]).any()
    assert (half.tensors[file]["direction"] != weak.tensors[file]["direction"]).any()
    assert "estimator logistic regression with inverse penalty 0.001" in strong.card
    assert "bfloat16 weights, at block" in half.card


def test_a_penalty_without_a_regression_is_refused(workshop):
    with pytest.raises(RecipeError, match="inverse_penalty"):
        workshop.recipe(CONDITION + "  inverse_penalty: 0.5\n", "condition")


def test_without_blocks_there_is_nothing_to_read(workshop):
    with pytest.raises(RecipeError, match="mean_blocks"):
        workshop.recipe(CONDITION.replace("  blocks: [1]\n  mean_blocks: [0]\n", ""), "condition")


@pytest.mark.parametrize("estimator", ["mean_difference", "pca_pairs"])
def test_both_estimators_find_a_planted_direction_with_its_sign(estimator):
    generator = torch.Generator().manual_seed(0)
    planted = torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=-1)
    harmful = torch.randn(40, 2, 16, generator=generator) + 6 * planted
    benign = torch.randn(50, 2, 16, generator=generator)
    found = directions(harmful, benign, estimator, seed=1)
    assert ((found * planted).sum(dim=-1) > 0.95).all()
    turned = directions(benign, harmful, estimator, seed=1)
    assert ((turned * planted).sum(dim=-1) < -0.95).all()


@pytest.mark.parametrize("estimator", ["mean_difference", "pca_pairs", "logistic_regression"])
def test_classes_that_do_not_differ_have_no_direction(estimator):
    same = torch.ones(4, 1, 8)
    with pytest.raises(BuildError, match="do not differ"):
        directions(same, same, estimator, seed=0)
