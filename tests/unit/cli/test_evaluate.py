"""`steerguard evaluate` as a command: prompt files and a saved tiny model in, a resumable folder out."""

from __future__ import annotations

import json

import pytest
import typer
from tests.evaluations import policy_text, prompt_files
from tests.guarded_models import registry_for, shared_model, tokenizer
from typer.testing import CliRunner

from steerguard.cli.evaluate import INTERRUPTED, evaluate
from steerguard.evaluate.journal import Journal

app = typer.Typer()
app.command()(evaluate)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    shared_model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def command(tmp_path, model_folder):
    (tmp_path / "policy.yaml").write_text(policy_text(), encoding="utf-8")
    bad, good = prompt_files(tmp_path)
    registry = registry_for(shared_model())

    def call(*more, model=str(model_folder), harmful=bad):
        return CliRunner().invoke(
            app,
            [
                *("--model", model, "--policy", str(tmp_path / "policy.yaml"), "--registry", str(registry.root)),
                *("--harmful", harmful, "--benign", good, "--out", str(tmp_path / "out"), "--dtype", "float32"),
                *("--max-new-tokens", "4", "--batch-size", "3", "--no-report", *more),
            ],
        )

    return call


def test_json_prints_the_document_and_nothing_else_on_standard_output(command, tmp_path):
    result = command("--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == (tmp_path / "out" / "evaluation.json").read_bytes()
    assert json.loads(result.stdout)["model"]["name"] == "model"


def test_the_table_names_sets_runs_and_the_folder(command, tmp_path):
    result = command()
    assert result.exit_code == 0, result.stderr
    for word in ("bad", "good", "unguided", "tiny", "strict refusal", "AUROC of d", "(prefilled)"):
        assert word in result.stdout
    assert str(tmp_path / "out" / "evaluation.json") in result.stdout


def test_an_interrupt_keeps_the_folder_and_says_how_to_go_on(command, tmp_path, monkeypatch):
    append, left = Journal.append, iter(range(2))

    def interrupted(self, rows):
        if next(left, None) is None:
            raise KeyboardInterrupt
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", interrupted)
        stopped = command()
    assert stopped.exit_code == INTERRUPTED
    assert "run the same command again" in stopped.stderr
    assert (tmp_path / "out" / "speed.json").exists()
    assert command().exit_code == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"harmful": "prompts.xlsx"}, "no file of a known kind"),
        ({"harmful": "absent.txt"}, "cannot be read"),
        ({"model": "/no/such/model"}, "does not exist"),
    ],
)
def test_what_is_wrong_is_said_with_the_name_of_the_error(command, wrong, said):
    result = command(**wrong)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Error: " in result.stderr


def test_a_set_is_needed(model_folder, tmp_path):
    result = CliRunner().invoke(
        app, ["--model", str(model_folder), "--policy", "refuse-only", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "nothing to evaluate" in result.stderr
