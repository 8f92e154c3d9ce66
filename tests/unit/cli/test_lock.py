"""`steerguard lock`: what it writes, what it keeps, and what it tells."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.artifact_samples import sample_files, write_folder
from tests.guarded_models import fresh_model, tokenizer
from tests.guarded_models import policy as guarded_policy
from tests.signed_artifacts import ACME, OWNER, attest_all, put_list, revoked, trust_text
from typer.testing import CliRunner

from steerguard.cli.main import application
from steerguard.content import policies_directory
from steerguard.registry.local import create_registry
from steerguard.registry.lockfile import read_lock
from steerguard.registry.revocations import revocation_list
from steerguard.testing import tiny_registry

APP = application(["lock"])


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    add(registry, "1.0.0")
    return registry


def add(registry, version, **changes):
    name = f"{version}-{len(list(registry.root.parent.iterdir()))}"
    registry.add(write_folder(registry.root.parent / name, sample_files(version=version, **changes)))


@pytest.fixture
def policy(tmp_path, registry):
    """The shipped policy with vectors of a local registry."""
    text = (policies_directory() / "harmlessness.yaml").read_text()
    file = tmp_path / "policy.yaml"
    file.write_text(text.replace("inferaligner-steps@^2", f"{registry.name}#inferaligner@^1"))
    assert registry.name in file.read_text()
    return file


def run(*arguments):
    runner = CliRunner(env={"COLUMNS": "240"})
    return runner.invoke(APP, ["lock", *(str(argument) for argument in arguments)])


def versions():
    lock = read_lock_here()
    return {one.family: one.version for one in lock.artifacts}


def read_lock_here():
    return read_lock(Path("steerguard.lock"))


def test_a_lock_file_is_written_and_then_fits(policy, registry):
    result = run(policy)
    assert result.exit_code == 0, result.output
    assert "+ policy harmlessness" in result.stdout
    assert "inferaligner/tiny@1.0.0" in result.stdout
    lock = read_lock_here()
    assert {one.registry for one in lock.artifacts} == {"embedded", registry.name}
    assert [one.registry for one in lock.registries] == ["embedded", registry.name]
    before = Path("steerguard.lock").read_bytes()
    assert run(policy, "--check").exit_code == 0
    again = run(policy)
    assert "is unchanged" in again.stdout
    assert Path("steerguard.lock").read_bytes() == before


def test_a_new_version_waits_for_an_upgrade(policy, registry):
    run(policy)
    add(registry, "1.1.0")
    assert run(policy, "--check").exit_code == 0
    run(policy)
    assert versions()["inferaligner"] == "1.0.0"
    seen = run(policy, "--check", "--upgrade")
    assert seen.exit_code == 1
    assert "inferaligner/tiny@1.1.0" in seen.stdout
    assert versions()["inferaligner"] == "1.0.0"
    assert run(policy, "--upgrade", "--family", "harmful-intent").exit_code == 0
    assert versions()["inferaligner"] == "1.0.0"
    assert run(policy, "--upgrade", "--family", "inferaligner").exit_code == 0
    assert versions()["inferaligner"] == "1.1.0"


def test_check_finds_a_changed_policy_and_writes_nothing(policy):
    run(policy)
    before = Path("steerguard.lock").read_bytes()
    policy.write_text(policy.read_text().replace("name: harmlessness", "name: changed"))
    result = run(policy, "--check")
    assert result.exit_code == 1
    assert "- policy harmlessness" in result.stdout
    assert "+ policy changed" in result.stdout
    assert Path("steerguard.lock").read_bytes() == before


def test_check_needs_a_lock_file(policy):
    result = run(policy, "--check")
    assert result.exit_code == 1
    assert "LockFormatError" in result.stderr


def test_an_edited_lock_file_is_refused_and_kept(policy, tmp_path):
    run(policy)
    file = tmp_path / "steerguard.lock"
    file.write_bytes(file.read_bytes().replace(b'"1.0.0"', b'"1.0.1"'))
    edited = file.read_bytes()
    result = run(policy)
    assert result.exit_code == 1
    assert "was edited" in result.stderr
    assert file.read_bytes() == edited


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--family", "inferaligner"], "Add --upgrade"),
        (["--upgrade", "--family", "unknown"], "No policy uses the family"),
        (["--registry", "absent"], "no such registry"),
        (["--registry", "hf://acme"], "keys of its index"),
        (["--trust", "absent.yaml"], "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said(policy, arguments, said):
    result = run(policy, *arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_a_reference_to_the_hub_needs_a_trust_policy(policy, registry):
    policy.write_text(policy.read_text().replace(f"{registry.name}#", "hf://acme/"))
    result = run(policy)
    assert result.exit_code == 1
    assert "SignatureError" in result.stderr
    assert "--trust" in result.stderr


def test_out_names_another_file(tmp_path):
    assert run("harmlessness", "--out", tmp_path / "other.lock").exit_code == 0
    assert json.loads((tmp_path / "other.lock").read_text())["kind"] == "Lockfile"
    assert not (tmp_path / "steerguard.lock").exists()


def test_for_a_model_only_its_variants_are_locked(tmp_path):
    model = fresh_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    own = tiny_registry(tmp_path / "own", model, tokenizer())
    own.add(write_folder(tmp_path / "foreign", sample_files(variant="foreign", version="1.9.0")))
    file = tmp_path / "own.json"
    file.write_text(json.dumps(guarded_policy().document()))
    everything = run(file, "--registry", own.root)
    assert everything.exit_code == 0, everything.output
    assert {one.variant for one in read_lock_here().artifacts if one.family == "inferaligner"} == {"tiny", "foreign"}
    narrowed = run(file, "--registry", own.root, "--model", tmp_path / "model")
    assert narrowed.exit_code == 0, narrowed.output
    assert {one.variant for one in read_lock_here().artifacts} == {"tiny"}
    assert run("harmlessness", "--model", tmp_path / "model").exit_code == 1


def trusted(tmp_path, registry):
    file = tmp_path / "trust.yaml"
    file.write_text(trust_text(registries=[registry.name], signed=[registry.name]))
    return file


def current_list(registry, *artifacts, sequence=1):
    """A list that was issued a moment ago: commands ask the real clock."""
    issued = datetime.now(UTC) - timedelta(minutes=1)
    return revocation_list(
        registry.name, sequence=sequence, issued=issued, expires=issued + timedelta(days=1), artifacts=artifacts
    )


def test_under_a_trust_policy_signers_and_revocations_are_written_down(policy, registry, tmp_path):
    trust = trusted(tmp_path, registry)
    put_list(registry.root, current_list(registry, sequence=4), OWNER)
    refused = run(policy, "--trust", trust)
    assert refused.exit_code == 1
    assert "SignatureError" in refused.stderr
    attest_all(registry, ACME)
    result = run(policy, "--trust", trust)
    assert result.exit_code == 0, result.output
    lock = read_lock_here()
    assert {one.family: one.signed_by for one in lock.artifacts}["inferaligner"] == (ACME.public.id,)
    assert {one.registry: one.revocations_sequence for one in lock.registries}[registry.name] == 4


def test_a_revoked_version_is_skipped_and_reported(policy, registry, tmp_path):
    trust = trusted(tmp_path, registry)
    add(registry, "1.1.0")
    attest_all(registry, ACME)
    put_list(registry.root, current_list(registry), OWNER)
    run(policy, "--trust", trust)
    assert versions()["inferaligner"] == "1.1.0"
    bad = revoked(family="inferaligner", range="1.1.0")
    put_list(registry.root, current_list(registry, bad, sequence=2), OWNER)
    assert run(policy, "--trust", trust, "--check").exit_code == 1
    result = run(policy, "--trust", trust)
    assert result.exit_code == 0, result.output
    assert "skipped inferaligner/tiny@1.1.0" in result.stderr
    assert "RevokedError" in result.stderr
    assert versions()["inferaligner"] == "1.0.0"
