"""Choosing a probe by cross-validation: which one wins, what the card says, and resuming."""

from __future__ import annotations

import json

import pytest
import torch

from steerguard.build import probe_search
from steerguard.build.probes import found_at_rate, out_of_fold_by_part, out_of_fold_scores

SEARCH = """\
artifact:
  type: probe
  folds: 2
  calibration_weights: float32
  search:
    blocks: [[0, 1], [2, 3], [1, 2, 3]]
    estimators: [mean_difference, logistic_regression]
    inverse_penalties: [0.1, 1.0]
"""
SETTINGS = 3 * (1 + 2)
FITS = 4 * (1 + 2)


def rows_of(built):
    return json.loads((built.folder / "benchmarks.json").read_text())["compared"]["probe_search"]


def test_the_setting_that_finds_most_is_chosen_ties_by_auroc(workshop):
    built = workshop.build(workshop.recipe(SEARCH, "harmful-intent"))
    rows = rows_of(built)
    assert len(rows) == SETTINGS
    (chosen,) = [row for row in rows if row["chosen"]]
    assert (chosen["found"], chosen["auroc"]) == max((row["found"], row["auroc"]) for row in rows)
    manifest = json.loads((built.folder / "manifest.json").read_text())
    assert manifest["params"]["blocks"] == chosen["blocks"]
    assert "## What was compared" in (built.folder / "README.md").read_text()
    assert {row["inverse_penalty"] for row in rows if row["estimator"] == "mean_difference"} == {None}


def test_the_table_of_a_setting_equals_its_own_cross_validation(workshop):
    built = workshop.build(workshop.recipe(SEARCH, "harmful-intent"))
    (chosen,) = [row for row in rows_of(built) if row["chosen"]]
    figures = json.loads((built.folder / "benchmarks.json").read_text())["build"]
    assert chosen["auroc"] == figures[0]["value"]


def test_a_killed_comparison_continues_and_gives_the_same_bytes(workshop, monkeypatch):
    recipe, cache = workshop.recipe(SEARCH, "harmful-intent"), workshop.folder / "cache"
    fit, calls = probe_search.out_of_fold_by_part, []

    def counted(*arguments, **settings):
        calls.append(1)
        if len(calls) > 5:
            raise KeyboardInterrupt
        return fit(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(probe_search, "out_of_fold_by_part", counted)
        with pytest.raises(KeyboardInterrupt):
            workshop.build(recipe, cache=cache)
    resumed = workshop.build(recipe, cache=cache)
    assert resumed.reused_steps.count("probe-fold") == 5
    assert resumed.digest == workshop.build(recipe).digest
    assert workshop.build(recipe, cache=cache).reused_steps.count("probe-fold") == FITS


def test_the_score_of_blocks_is_the_mean_of_their_columns():
    generator = torch.Generator().manual_seed(0)
    harmful, benign = (torch.randn(20, 3, 6, generator=generator) + shift for shift in (1, 0))
    options = {"inverse_penalty": 1.0, "folds": 4, "seed": 2}
    by_block = out_of_fold_by_part(harmful, benign, "lda", **options)
    together = out_of_fold_scores(harmful[:, [0, 2]], benign[:, [0, 2]], "lda", **options)
    for columns, scores in zip(by_block, together, strict=True):
        torch.testing.assert_close(columns[:, [0, 2]].mean(dim=1), torch.tensor(scores))


@pytest.mark.parametrize(
    ("benign", "rate", "found"),
    [
        ([float(index) for index in range(20)], 0.05, 0.5),  # one of 20 may lie above: the threshold is 18
        ([float(index) for index in range(20)], 0.0, 0.25),
        ([float(index) for index in range(10)], 0.05, 1.0),
        ([19.0] * 20, 0.05, 0.25),
    ],
)
def test_harmful_found_counts_scores_above_what_the_rate_of_benign_exceeds(benign, rate, found):
    assert found_at_rate([18.5, 20.0, 18.0, 17.5], benign, rate) == found
