"""Probes with prompt means: recipes, joint fits, the search over both, and kinds that the calibration leaves out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steerguard.artifacts.verify import verify_artifact
from steerguard.build.probes import fit_probe, out_of_fold_by_part, out_of_fold_scores
from steerguard.errors import RecipeError
from steerguard.models.capture import capture_residuals
from steerguard.testing import tiny_model

PROBE = """\
artifact:
  type: probe
  blocks: [1, 2]
  mean_blocks: [0, 2]
  estimator: logistic_regression
  inverse_penalty: 0.5
  joint: true
  folds: 2
  calibration_weights: float32
"""
SEARCH = """\
artifact:
  type: probe
  folds: 2
  calibration_weights: float32
  search:
    blocks: [[1], [1, 2]]
    mean_blocks: [[], [0, 2]]
    estimators: [lda, logistic_regression]
    inverse_penalties: [0.1, 1.0]
    joint: [false, true]
"""
PARTS = ((0, "prompt_mean"), (1, "end"), (2, "end"), (2, "prompt_mean"))


def classes(count=30, parts=3, width=6):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(count, parts, width, generator=generator) * 2 + shift for shift in (4.0, 3.0))


def artifact_of(built):
    files = {p.relative_to(built.folder).as_posix(): p.read_bytes() for p in built.folder.rglob("*") if p.is_file()}
    return verify_artifact(files, built.digest), files


def test_a_joint_fit_scores_as_one_regression_on_the_standardised_parts_side_by_side():
    harmful, benign = classes()
    probe = fit_probe(harmful, benign, PARTS[:3], "logistic_regression", inverse_penalty=0.5, joint=True)
    features = torch.cat([harmful, benign]).flatten(1).double().numpy()
    regression = LogisticRegression(C=0.5, class_weight="balanced", max_iter=3000)
    pipeline = make_pipeline(StandardScaler(), regression).fit(features, np.r_[np.ones(30), np.zeros(30)])
    scores = probe.score(torch.cat([harmful, benign])).numpy()
    np.testing.assert_allclose(scores, pipeline.decision_function(features), rtol=1e-3, atol=1e-3)
    assert probe.parts == PARTS[:3]


def test_out_of_fold_scores_of_a_joint_fit_are_the_mean_of_its_columns():
    harmful, benign = classes()
    options = {"inverse_penalty": 0.5, "folds": 3, "seed": 1, "joint": True}
    columns = out_of_fold_by_part(harmful, benign, "logistic_regression", **options)
    scores = out_of_fold_scores(harmful, benign, "logistic_regression", **options)
    for by_part, whole in zip(columns, scores, strict=True):
        torch.testing.assert_close(by_part.mean(dim=1), torch.tensor(whole))
    apart = out_of_fold_scores(harmful, benign, "logistic_regression", **{**options, "joint": False})
    assert apart[0] != scores[0]


def test_a_probe_with_prompt_means_states_them_and_is_calibrated_with_them(workshop):
    built = workshop.build(workshop.recipe(PROBE, "harmful-intent"))
    artifact, files = artifact_of(built)
    params = artifact.manifest.params
    assert (tuple(params["blocks"]), tuple(params["over"])) == tuple(zip(*PARTS, strict=True))
    assert "probe.prompt_mean" in artifact.manifest.requires.features
    tensors = artifact.tensors["weights/probe.safetensors"]
    assert (tensors["weight"].shape, tensors["bias"].shape) == ((4, 32), (4,))
    rows = [json.loads(line) for line in (workshop.folder / "benign.jsonl").read_text().splitlines()]
    chats = [row["messages"] for row in rows if row["split"] == "calibration"]
    states = capture_residuals(
        tiny_model("llama"), workshop.tokenizer, chats, params["blocks"], over=params["over"], batch_size=2
    )
    scores = ((states * tensors["weight"]).sum(-1) + tensors["bias"]).mean(-1)
    recorded = [float(text) for text in artifact.calibration.benign_scores]
    assert recorded == pytest.approx(sorted(scores.tolist()), abs=1e-4)
    card = files["README.md"].decode()
    assert "on all parts together" in card
    assert "prompt mean (float32, from the fifth token on), blocks 0, 2" in card


def test_a_recipe_without_prompt_means_gives_the_params_of_before(workshop):
    for old, new in (("  mean_blocks: [0, 2]\n", ""), ("mean_blocks: [0, 2]", "mean_blocks: []")):
        artifact, _ = artifact_of(workshop.build(workshop.recipe(PROBE.replace(old, new), "harmful-intent")))
        assert artifact.manifest.params == {"blocks": [1, 2], "read": "generation_prompt_end", "reduce": "mean"}
        assert "probe.prompt_mean" not in artifact.manifest.requires.features


def test_a_search_tries_every_list_and_the_winner_is_what_is_built(workshop):
    recipe, cache = workshop.recipe(SEARCH, "harmful-intent"), workshop.folder / "cache"
    built = workshop.build(recipe, cache=cache)
    benchmarks = json.loads((built.folder / "benchmarks.json").read_text())
    rows = benchmarks["compared"]["probe_search"]
    assert len(rows) == 4 * (1 + 2 * 2)
    (chosen,) = [row for row in rows if row["chosen"]]
    assert (chosen["found"], chosen["auroc"]) == max((row["found"], row["auroc"]) for row in rows)
    assert chosen["auroc"] == benchmarks["build"][0]["value"]
    params = json.loads((built.folder / "manifest.json").read_text())["params"]
    over = params.get("over", ["end"] * len(params["blocks"]))
    for key, where in (("blocks", "end"), ("mean_blocks", "prompt_mean")):
        found = [block for block, one in zip(params["blocks"], over, strict=True) if one == where]
        assert found == (chosen[key] or [])
    assert workshop.build(recipe, cache=cache).digest == built.digest == workshop.build(recipe).digest


def test_kinds_that_the_calibration_leaves_out_are_reported_apart(workshop):
    text = PROBE + '  calibration_kinds_left_out: ["od*"]\n'
    built = workshop.build(workshop.recipe(text, "harmful-intent"))
    artifact, files = artifact_of(built)
    rows = [json.loads(line) for line in (workshop.folder / "benign.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["split"] == "calibration" and row["kind"] == "even"]
    assert 0 < artifact.calibration.n == len(kept) < 4
    assert "without the kinds od*" in artifact.calibration.source
    figures = {figure["id"]: figure for figure in json.loads(files["benchmarks.json"])["build"]}
    odd = sum(row["kind"] == "odd" and row["split"] != "build" for row in rows)
    assert figures["unseen_benign_od_auroc"]["n_benign"] == odd
    even = sum(row["kind"] == "even" and row["split"] == "held_out" for row in rows)
    assert figures["held_out_auroc"]["n_benign"] == even


def test_rates_are_reported_for_each_left_out_group(workshop):
    rows = [json.loads(line) for line in (workshop.folder / "benign.jsonl").read_text().splitlines()]
    more = [{**rows[2], "id": f"more{i}", "split": "calibration", "kind": "even"} for i in range(60)]
    (workshop.folder / "benign.jsonl").write_text("\n".join(json.dumps(row) for row in [*rows, *more]))
    text = PROBE + "  calibration_kinds_left_out: [odd]\n"
    built = workshop.build(workshop.recipe(text, "harmful-intent"))
    figures = {figure["id"]: figure for figure in json.loads((built.folder / "benchmarks.json").read_text())["build"]}
    assert figures["unseen_benign_odd_gate_rate_fpr_0.02"]["n"] == 4
    assert {"held_out_benign_gate_rate_fpr_0.05", "held_out_harmful_gate_rate_fpr_0.05"} <= set(figures)


def with_kind(workshop, split, kind):
    """Add four benign prompts of a kind that only one split has."""
    lines = (workshop.folder / "benign.jsonl").read_text().splitlines()
    more = [{**json.loads(lines[0]), "id": f"{kind}{i}", "split": split, "kind": kind} for i in range(4)]
    (workshop.folder / "benign.jsonl").write_text("\n".join([*lines, *map(json.dumps, more)]))


def figures_without_scary(workshop):
    text = PROBE + "  calibration_kinds_left_out: [scary]\n"
    built = workshop.build(workshop.recipe(text, "harmful-intent"))
    return {figure["id"]: figure for figure in json.loads((built.folder / "benchmarks.json").read_text())["build"]}


def test_a_left_out_kind_that_only_held_out_has_is_not_in_the_held_out_figures_either(workshop):
    with_kind(workshop, "held_out", "scary")
    figures = figures_without_scary(workshop)
    assert figures["held_out_auroc"]["n_benign"] == 4
    assert figures["unseen_benign_scary_auroc"]["n_benign"] == 4


def test_a_left_out_kind_that_only_the_build_has_gives_no_figure(workshop):
    with_kind(workshop, "build", "scary")
    figures = figures_without_scary(workshop)
    assert figures["held_out_auroc"]["n_benign"] == 4
    assert not any("scary" in name for name in figures)


@pytest.mark.parametrize("groups", ["[scary]", "[odd, od*]"])
def test_a_group_without_prompts_or_with_another_group_s_is_refused(workshop, groups):
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(PROBE + f"  calibration_kinds_left_out: {groups}\n", "harmful-intent"))
    assert caught.value.where == "artifact.calibration_kinds_left_out"


@pytest.mark.parametrize(
    ("text", "old", "new", "field"),
    [
        (PROBE, "mean_blocks: [0, 2]", "mean_blocks: [2, 0]", "artifact.mean_blocks"),
        (PROBE, "mean_blocks: [0, 2]", "mean_blocks: 2", "artifact.mean_blocks"),
        (PROBE, "joint: true", "joint: 1", "artifact.joint"),
        (PROBE, "estimator: logistic_regression", "estimator: lda", "artifact.joint"),
        (PROBE, "folds: 2", 'folds: 2\n  calibration_kinds_left_out: [""]', "artifact.calibration_kinds_left_out"),
        (SEARCH, "[[], [0, 2]]", "[[], []]", "artifact.search.mean_blocks"),
        (SEARCH, "[[], [0, 2]]", "[]", "artifact.search.mean_blocks"),
        (SEARCH, "[[], [0, 2]]", "[[2, 0]]", "artifact.search.mean_blocks.0"),
        (SEARCH, "[false, true]", "[true, true]", "artifact.search.joint"),
        (SEARCH, "  search:", "  joint: true\n  search:", "artifact.joint"),
        (SEARCH, "  search:", "  mean_blocks: [1]\n  search:", "artifact.mean_blocks"),
        (SEARCH, "  search:", "  inverse_penalty: 1.0\n  search:", "artifact.inverse_penalty"),
    ],
)
def test_a_wrong_field_is_refused_by_name(workshop, text, old, new, field):
    with pytest.raises(RecipeError) as caught:
        workshop.recipe(text.replace(old, new), "harmful-intent")
    assert field in str(caught.value)


def test_prompt_means_of_a_block_that_the_model_lacks_are_refused(workshop):
    with pytest.raises(RecipeError) as caught:
        workshop.build(workshop.recipe(PROBE.replace("[0, 2]", "[0, 4]"), "harmful-intent"))
    assert caught.value.where == "artifact.mean_blocks"
