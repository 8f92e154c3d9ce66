"""`steerguard plan` with a registry, a trust policy and a lock file."""

from __future__ import annotations

import json

import pytest
from tests.guarded_models import fresh_model, policy, registry_for, shared_model, tokenizer
from tests.signed_artifacts import revoked
from tests.trusted_models import locked_project
from typer.testing import CliRunner

from steerguard.cli.main import application

APP = application(["plan", "policy"])


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    fresh_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    project = locked_project(tmp_path, shared_model())
    (tmp_path / "policy.json").write_text(json.dumps(project.policy.document()))
    return project


def run(folder, *arguments):
    command = ["plan", folder / "policy.json", "--model", folder / "model", *arguments]
    return CliRunner(env={"COLUMNS": "240"}).invoke(APP, [str(argument) for argument in command])


def test_a_plan_is_made_from_what_is_locked_and_pulled(project, tmp_path):
    result = run(tmp_path, "--trust", project.trust, "--lock", project.lock, "--json")
    assert result.exit_code == 0, result.output
    entries = registry_for(shared_model()).entries()
    used = [entry.digest for entry in entries if entry.family in {"harmful-intent", "inferaligner"}]
    assert len(used) == 2
    assert all(digest in result.stdout for digest in used)


def test_what_wrap_would_refuse_is_refused(project, tmp_path):
    for arguments, code in (
        (["--trust", project.trust], "UnlockedArtifactError"),
        (["--lock", project.lock], "SignatureError"),
        (["--trust", project.trust, "--lock", tmp_path / "absent.lock"], "LockFormatError"),
    ):
        result = run(tmp_path, *arguments)
        assert result.exit_code == 1
        assert code in result.stderr
    project.publish_list(revoked(family="inferaligner"))
    assert "RevokedError" in run(tmp_path, "--trust", project.trust, "--lock", project.lock).stderr


def test_a_local_registry_is_named_by_folder_or_name(project, tmp_path):
    (tmp_path / "policy.json").write_text(json.dumps(policy().document()))
    source = registry_for(shared_model())
    for registry in (source.root, source.name):
        result = run(tmp_path, "--registry", registry)
        assert result.exit_code == 0, result.output
    assert "inferaligner" in result.stdout
