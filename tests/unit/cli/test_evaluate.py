"""`steerguard evaluate` as a command: prompt files and a saved tiny model in, a resumable folder out."""

from __future__ import annotations

import json

import pytest
import typer
from tests.evaluations import policy_text, prompt_files, tiny_policy
from tests.guarded_models import registry_for, shared_model, tokenizer
from tests.signed_artifacts import ACME, attest_all
from tests.signed_registries import copied_registry, lock_of, trust_file
from tests.trusted_models import locked_project
from typer.testing import CliRunner

from steerguard.cli.evaluate import INTERRUPTED, evaluate
from steerguard.evaluate.journal import Journal
from steerguard.registry.lockfile import write_lock

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
    standard = registry_for(shared_model()).root

    def call(*more, model=str(model_folder), harmful=bad, registry=standard):
        return CliRunner().invoke(
            app,
            [
                *("--model", model, "--policy", str(tmp_path / "policy.yaml"), "--registry", str(registry)),
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


def test_a_registry_under_a_trust_policy_is_measured_where_it_is_signed(command, tmp_path):
    registry = copied_registry(tmp_path / "registry", shared_model())
    trust = str(trust_file(tmp_path, registry))
    refused = command("--trust", trust, registry=registry.root)
    assert refused.exit_code == 1
    assert "SignatureError: " in refused.stderr
    assert not (tmp_path / "out" / "evaluation.json").exists()
    attest_all(registry, ACME)
    accepted = command("--trust", trust, "--json", registry=registry.root)
    assert accepted.exit_code == 0, accepted.stderr
    plain = command("--json", "--out", str(tmp_path / "plain"))
    assert accepted.stdout_bytes == plain.stdout_bytes


def test_what_is_locked_on_the_hub_and_pulled_is_measured(command, tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    project = locked_project(tmp_path, shared_model(), document=tiny_policy())
    (tmp_path / "policy.yaml").write_text(json.dumps(project.policy.document()), encoding="utf-8")
    trust, lock = ("--trust", str(project.trust)), ("--lock", str(project.lock))
    for given, code in ((trust, "UnlockedArtifactError"), (lock, "SignatureError"), ((), "UnlockedArtifactError")):
        assert f"{code}: " in command(*given).stderr
    result = command(*trust, *lock, "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes == (tmp_path / "out" / "evaluation.json").read_bytes()


def test_a_lock_file_of_another_policy_is_refused(command, tmp_path):
    registry = copied_registry(tmp_path / "registry", shared_model())
    attest_all(registry, ACME)
    lock = tmp_path / "steerguard.lock"
    given = ("--trust", str(trust_file(tmp_path, registry)), "--lock", str(lock))
    write_lock(lock, lock_of(registry, [tiny_policy(name="other")]))
    refused = command(*given, registry=registry.root)
    assert refused.exit_code == 1
    assert "LockMismatchError: " in refused.stderr
    write_lock(lock, lock_of(registry, [tiny_policy(), tiny_policy(name="other")]))
    assert command(*given, registry=registry.root).exit_code == 0


@pytest.mark.parametrize(("option", "code"), [("--trust", "TrustPolicyError"), ("--lock", "LockFormatError")])
def test_a_trust_policy_or_lock_file_that_cannot_be_read_is_said_first(command, tmp_path, option, code):
    result = command(option, str(tmp_path / "absent"), model="/no/such/model")
    assert result.exit_code == 1
    assert f"{code}: " in result.stderr


def test_warnings_of_the_judge_are_not_on_standard_output(command, tmp_path):
    registry = copied_registry(tmp_path / "registry", shared_model())
    loosened = "unsigned_local: {action: allow, reason: built here for tests, expires: 2999-12-31}"
    result = command("--json", "--trust", str(trust_file(tmp_path, registry, extra=loosened)), registry=registry.root)
    assert result.exit_code == 0, result.stderr
    assert "built here for tests" in result.stderr
    assert result.stdout_bytes == (tmp_path / "out" / "evaluation.json").read_bytes()
