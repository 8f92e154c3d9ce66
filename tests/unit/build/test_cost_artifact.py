"""A tiny build of a cost model: what the artifact says, how it was calibrated, and that it builds again."""

from __future__ import annotations

import csv
import hashlib
import json

import pytest
import torch

from steerguard.artifacts.cost_params import cost_params
from steerguard.artifacts.verify import verify_artifact
from steerguard.build.artifact import build_artifact
from steerguard.build.cost_states import GivenAnswers, read_prefixes
from steerguard.critics.response_states import bind_cost
from steerguard.errors import RecipeError
from steerguard.testing import tiny_model

COST = """\
artifact:
  type: cost_model
  blocks: [1, 3]
  inverse_penalty: 0.1
  folds: 2
  prefixes: [2, 4]
  labelled:
    - responses: {path: labelled.csv, sha256: SHA256}
      rows: all
      tokens: 6
  answers: {tokens: 5, max_harmful_prompts: 3, max_calibration_prompts: 3}
  weights: float32
  calibration_weights: float32
"""
SEARCHED = COST.replace(
    "  blocks: [1, 3]\n  inverse_penalty: 0.1\n",
    "  search: {blocks: [[1], [1, 3]], inverse_penalties: [0.1, 0.01]}\n",
)


@pytest.fixture
def labelled(workshop):
    """The workshop's folder with eight questions of two answers each; returns the recipe text with their digest."""
    rows = [
        (f"how to open lock {number}", answer, label)
        for number in range(8)
        for answer, label in ((f"break the door of number {number}", "1"), (f"no {number} I cannot", "0"))
    ]
    path = workshop.folder / "labelled.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("question", "response", "label"), *rows])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return lambda text: text.replace("SHA256", digest)


def built(workshop, text, *, cache=None, out="cost", data=True):
    recipe = workshop.recipe(text, "harm-cost")
    return build_artifact(
        recipe,
        tiny_model("llama"),
        workshop.tokenizer,
        out=workshop.folder / out,
        cache=cache,
        data_folder=workshop.folder if data else None,
    )


def verified(result):
    files = {path.relative_to(result.folder).as_posix(): path for path in result.folder.rglob("*") if path.is_file()}
    return verify_artifact({name: path.read_bytes() for name, path in files.items()}, result.digest)


def test_the_artifact_binds_and_says_what_it_is(workshop, labelled):
    result = built(workshop, labelled(COST))
    artifact = verified(result)
    manifest = artifact.manifest
    assert (manifest.type, manifest.method) == ("cost_model", "response_states")
    assert "cost.response_states" in manifest.requires.features
    params = cost_params(manifest)
    assert (params.blocks, params.layers, params.unit) == ((1, 3), 1, "log-odds")
    assert manifest.sign == "positive means harmful"
    cost = bind_cost(artifact)
    assert cost.blocks == (1, 3)
    assert artifact.calibration.n == 3
    assert "split calibration" in artifact.calibration.source
    assert "8 harmful and 8 harmless labelled answers to 8 questions" in artifact.card
    assert f"{params.threshold:.6g}"[:5] in artifact.card
    figures = {figure["id"]: figure for figure in result.figures}
    for length in ("2", "4", "end"):
        assert 0 <= float(figures[f"labelled_auroc_{length}"]["value"]) <= 1
        assert f"labelled_within_auroc_{length}" in figures
    assert figures["labelled_harmful_flagged"]["count"] >= 0.9 * 8
    assert "how to open" not in json.dumps([dict(figure) for figure in result.figures]) + artifact.card


def test_the_threshold_and_the_costs_come_from_the_states_of_the_answers(workshop, labelled):
    """Fed with the states of the labelled answers, the bound model tells the two kinds of words apart."""
    artifact = verified(built(workshop, labelled(COST.replace("inverse_penalty: 0.1", "inverse_penalty: 10.0"))))
    cost = bind_cost(artifact)
    model = tiny_model("llama").eval()
    ids = workshop.tokenizer
    given = GivenAnswers(
        conversations=tuple(({"role": "user", "content": f"how to open lock {number}"},) for number in range(4)) * 2,
        begins=(None,) * 8,
        answers=tuple(
            tuple(ids(text, add_special_tokens=False)["input_ids"][:6])
            for text in [
                *(f"break the door of number {number}" for number in range(4)),
                *(f"no {number} I cannot" for number in range(4)),
            ]
        ),
    )
    means = read_prefixes(model, workshop.tokenizer, given, (1, 3), (8,), batch_size=8, progress=lambda _done: None)
    costs = cost.cost_of_means(means)
    assert costs[:4].min() > costs[4:].max()


def test_a_build_resumes_and_gives_the_same_bytes(workshop, labelled):
    cache = workshop.folder / "cache"
    first = built(workshop, labelled(COST), cache=cache, out="one")
    again = built(workshop, labelled(COST), cache=cache, out="two")
    fresh = built(workshop, labelled(COST), out="three")
    assert first.digest == again.digest == fresh.digest
    assert set(again.reused_steps) == {"sampled-answers", "prefix-states", "cost-out-of-fold", "fingerprint"}


def test_another_seed_draws_other_answers(workshop, labelled):
    text = labelled(COST)
    first = verified(built(workshop, text, out="one"))
    recipe = workshop.recipe(text, "harm-cost", **{"seed: 3": "seed: 4"})
    other = build_artifact(
        recipe, tiny_model("llama"), workshop.tokenizer, out=workshop.folder / "two", data_folder=workshop.folder
    )
    assert first.calibration != verified(other).calibration


def test_a_search_lists_every_setting_and_takes_the_best(workshop, labelled):
    result = built(workshop, labelled(SEARCHED))
    rows = json.loads((result.folder / "benchmarks.json").read_text(encoding="utf-8"))["compared"]["cost_settings"]
    assert [(row["blocks"], row["inverse_penalty"]) for row in rows] == [
        ([1], "0.1"),
        ([1], "0.01"),
        ([1, 3], "0.1"),
        ([1, 3], "0.01"),
    ]
    chosen = [row for row in rows if row["chosen"]]
    assert len(chosen) == 1
    assert float(chosen[0]["auroc"]) == max(float(row["auroc"]) for row in rows)
    assert list(cost_params(verified(result).manifest).blocks) == chosen[0]["blocks"]


def test_a_two_layer_head_is_built_and_bound(workshop, labelled):
    artifact = verified(built(workshop, labelled(COST.replace("  folds: 2\n", "  folds: 2\n  hidden: 4\n"))))
    assert cost_params(artifact.manifest).layers == 2
    states = torch.randn(3, 2, tiny_model("llama").config.hidden_size)
    assert bool(torch.isfinite(bind_cost(artifact).cost_of_means(states)).all())


def test_without_data_or_with_altered_data_nothing_is_written(workshop, labelled):
    text = labelled(COST)
    with pytest.raises(RecipeError, match="--data"):
        built(workshop, text, data=False)
    with (workshop.folder / "labelled.csv").open("a", encoding="utf-8") as file:
        file.write("more,words,1\n")
    with pytest.raises(RecipeError, match="other bytes"):
        built(workshop, text)
    assert not (workshop.folder / "cost").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  inverse_penalty: 0.1\n", "", "artifact.inverse_penalty"),
        ("  blocks: [1, 3]\n", "", "artifact.blocks"),
        ("blocks: [1, 3]", "blocks: [3, 1]", "ascend"),
        ("prefixes: [2, 4]", "prefixes: [4, 2]", "ascend"),
        ("tokens: 5, max_h", "tokens: 5, begin_share: 0.5, max_h", "artifact.answers.begin"),
        ("type: cost_model", "type: cost_model\n  read: answer", "read"),
        ("sha256: SHA256", "sha256: abc", "sha256"),
    ],
)
def test_wrong_fields_are_named(workshop, labelled, old, new, said):
    with pytest.raises(RecipeError, match=said):
        workshop.recipe(labelled(COST.replace(old, new)), "harm-cost")
