"""`steerguard build` as a command: a saved tiny model in, an artifact and a registry entry out."""

from __future__ import annotations

import hashlib
import json

import pytest
import typer
from typer.testing import CliRunner

from steerguard.cli.build import build
from steerguard.registry.local import LocalDirectory, create_registry
from steerguard.testing import tiny_model

RECIPE = """\
apiVersion: steerguard/v1alpha1
kind: BuildRecipe
metadata: {family: harmful-intent, variant: tiny, version: 1.0.0, description: Tiny., created: "2026-01-01T00:00:00Z"}
base: {repo: example/tiny, source: random weights}
prompts: {harmful: harmful.jsonl, benign: benign.jsonl}
artifact: {type: probe, blocks: [0, 1], estimator: mean_difference, folds: 2, calibration_weights: float32}
fingerprint: {blocks: [2, 3], weights: [float32]}
"""

app = typer.Typer()
app.command()(build)


@pytest.fixture
def folder(tmp_path, chatml_tokenizer):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    chatml_tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("[2, 3]", "[1, 2, 3]"), encoding="utf-8")
    for name in ("harmful", "benign"):
        rows = [
            {
                "id": str(index),
                "split": ("build", "calibration")[index % 2],
                "kind": "plain",
                "messages": [{"role": "user", "content": f"{name} {index}"}],
            }
            for index in range(8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return tmp_path


def run(folder, *options):
    arguments = [str(folder / "recipe.yaml"), "--model", str(folder / "model"), "--cache", str(folder / "cache")]
    return CliRunner().invoke(app, [*arguments, "--out", str(folder / "out"), *options])


def test_a_build_writes_the_artifact_and_adds_it_to_the_registry(folder):
    create_registry(folder / "registry")
    result = run(folder, "--registry", str(folder / "registry"))
    assert result.exit_code == 0, result.output
    (pin,) = LocalDirectory(folder / "registry").pinned("harmful-intent")
    assert pin.digest in result.output.replace("\n", "")


def test_a_registry_that_does_not_exist_is_made(folder):
    result = run(folder, "--registry", str(folder / "new" / "registry"))
    assert result.exit_code == 0, result.output
    assert len(LocalDirectory(folder / "new" / "registry").pinned("harmful-intent")) == 1


def test_a_folder_that_is_no_registry_is_refused_before_the_model_is_loaded(folder):
    (folder / "other").mkdir()
    (folder / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    result = run(folder, "--registry", str(folder / "other"), "--model", str(folder / "absent"))
    assert result.exit_code == 1
    assert "not a registry" in result.output
    assert not (folder / "out").exists()


def test_an_existing_output_folder_is_refused_before_the_model_is_loaded(folder):
    (folder / "out").mkdir()
    result = run(folder, "--model", str(folder / "absent"))
    assert result.exit_code == 1
    assert "exists already" in result.output


def test_a_wrong_recipe_is_refused_with_the_field(folder):
    (folder / "recipe.yaml").write_text(RECIPE.replace("folds: 2", "folds: 1"), encoding="utf-8")
    result = run(folder)
    assert result.exit_code == 1
    assert "artifact.folds" in result.output


def test_an_unknown_recipe_name_lists_the_shipped_ones(folder):
    result = CliRunner().invoke(app, ["nonsense", "--model", "packaged:smollm2", "--out", str(folder / "out")])
    assert result.exit_code == 1
    assert "inferaligner" in result.output


def test_a_missing_model_folder_is_refused(folder):
    result = run(folder, "--model", str(folder / "absent"))
    assert result.exit_code == 1
    assert "model folder" in result.output


def test_a_recipe_is_scaled_to_the_model_and_recorded_so(folder):
    deep = RECIPE.replace("blocks: [0, 1]", "blocks: [2, 5]").replace("blocks: [2, 3]", "blocks: [3, 5, 7]")
    text = deep.replace("source: random weights", "source: random weights, num_blocks: 8")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    plain = run(folder)
    assert "--scale-blocks" in plain.output
    result = run(folder, "--scale-blocks", "--variant", "my-model", "--base-repo", "me/mine")
    assert result.exit_code == 0, result.output
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert (manifest["variant"], manifest["base"]["repo"], manifest["base"]["source"]) == (
        "my-model",
        "me/mine",
        "model",
    )
    assert manifest["params"]["blocks"] == [1, 2]
    assert "scaled from 8 to 4" in (folder / "out" / "recipe.yaml").read_text()


def test_a_scaled_build_needs_a_name_of_its_own(folder):
    result = run(folder, "--scale-blocks")
    assert result.exit_code == 1
    assert "--variant" in result.output


def test_reused_steps_are_counted(folder):
    searching = "search: {blocks: [[0], [1], [0, 1]]}"
    (folder / "recipe.yaml").write_text(
        RECIPE.replace("blocks: [0, 1]", searching).replace("blocks: [2, 3]", "blocks: [1, 2, 3]"), encoding="utf-8"
    )
    assert run(folder).exit_code == 0
    again = run(folder, "--out", str(folder / "again"))
    assert "2 x probe-fold" in again.output


def test_a_cost_model_reads_its_labelled_answers_from_the_data_folder_and_says_what_is_missing(folder):
    rows = [
        f"lock {number},{word} {number},{label}" for number in range(4) for word, label in (("break", 1), ("no", 0))
    ]
    data = folder / "data"
    data.mkdir()
    content = "\n".join(["question,response,label", *rows]).encode()
    (data / "labelled.csv").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    artifact = (
        "artifact: {type: cost_model, blocks: [1], inverse_penalty: 0.1, folds: 2, prefixes: [2], "
        f"labelled: [{{responses: {{path: labelled.csv, sha256: {sha256}}}, rows: all}}], "
        "answers: {tokens: 3}, weights: float32, calibration_weights: float32}"
    )
    lines = [artifact if line.startswith("artifact:") else line for line in RECIPE.splitlines()]
    text = "\n".join(lines).replace("[2, 3]", "[1, 2, 3]").replace("harmful-intent", "harm-cost")
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    missing = run(folder)
    assert missing.exit_code == 1
    assert "--data" in missing.output
    assert sha256 in missing.output
    built = run(folder, "--data", str(data))
    assert built.exit_code == 0, built.output
    assert json.loads((folder / "out" / "manifest.json").read_bytes())["type"] == "cost_model"
