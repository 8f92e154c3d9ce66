"""`steerguard vet` as a command: an artifact, a saved tiny model and a suite in, a signed record or a new version out."""

from __future__ import annotations

import shutil

import pytest
import typer
from tests.guarded_models import registry_for, shared_model, tokenizer
from tests.vetting_suites import suite_file
from typer.testing import CliRunner

from steerguard.artifacts.publishable import require_publishable
from steerguard.artifacts.release import release_path, release_statement
from steerguard.artifacts.verify import verify_artifact
from steerguard.artifacts.vetting import is_vetting, parse_vetting
from steerguard.cli.main import GROUPS
from steerguard.cli.vet import INTERRUPTED, vet
from steerguard.evaluate.answering import Answerer
from steerguard.registry.folder import read_folder
from steerguard.signing.dsse import sign, verified_payload
from steerguard.signing.keys import KEY_VARIABLE, SigningKey
from steerguard.signing.statement import STATEMENT
from steerguard.vetting.find_artifact import find_artifact

app = typer.Typer()
app.command()(vet)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    shared_model().save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def artifact(tmp_path):
    registry = registry_for(shared_model())
    shutil.copytree(registry.root / "harmful-intent" / "tiny" / "1.0.0", tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def key(tmp_path):
    return SigningKey.create(tmp_path / "vetter.pem")


@pytest.fixture
def command(tmp_path, saved, artifact, key, monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)

    def call(*more, named=artifact, model=saved, signing=("--key", str(tmp_path / "vetter.pem")), **suite):
        return CliRunner().invoke(
            app,
            [
                *(str(named), "--model", str(model), "--suite", str(suite_file(tmp_path / "suite", **suite))),
                *("--registry", str(registry_for(shared_model()).root), "--dtype", "float32"),
                *(*signing, "--vetter", "lab", *more),
            ],
        )

    return call


def record_in(folder, key):
    files = read_folder(folder)
    (path,) = [path for path in files if is_vetting(path)]
    payload, _ = verified_payload(files[path], STATEMENT, (key.public,), where=path)
    return parse_vetting(payload, where=path)


def test_it_is_a_command_of_steerguard():
    assert "vet" in GROUPS


def test_a_pass_writes_a_signed_record_into_the_artifact(command, artifact, key):
    result = command("--valid-days", "3")
    assert result.exit_code == 0, result.output
    statement = record_in(artifact, key)
    assert (statement.predicate.verdict, statement.predicate.level) == ("pass", 2)
    assert statement.predicate.conditions[0] == "Vetted by lab."
    assert statement.predicate.vetted_by == key.public.text
    for said in ("Verdict: pass", "over-refusal", "fingerprint", "<= 1.0", key.public.id):
        assert said.lower() in result.stdout.lower()
    verify_artifact(read_folder(artifact), statement.digest)


def test_a_fail_is_written_too_and_exits_with_1(command, artifact, key):
    result = command(bars=("{metric: harmful_acted, set: harmful, at_least: 0.5}",), at_least="{value: 1000.0}")
    assert result.exit_code == 1
    assert "Verdict: fail" in result.stdout
    assert record_in(artifact, key).predicate.verdict == "fail"


def test_a_damaged_artifact_fails_in_writing(command, artifact, key):
    (artifact / "README.md").write_text("another card")
    result = command()
    assert result.exit_code == 1
    record = record_in(artifact, key).predicate
    assert (record.verdict, record.level, record.static_checks[0].passed) == ("fail", 1, False)


def test_level_1_needs_no_answers(command, artifact, key, monkeypatch):
    monkeypatch.setattr(Answerer, "answer", None)
    assert command("--level", "1").exit_code == 0
    assert record_in(artifact, key).predicate.level == 1


def test_level_3_is_for_others_than_the_publisher(command, artifact, key):
    assert "nobody has signed a release" in command("--independent").stderr
    _release(artifact, key)
    refused = command("--independent")
    assert refused.exit_code == 1
    assert "publisher of an artifact cannot vet it" in refused.stderr
    assert not list((artifact / "attestations").glob("vetting.*"))
    # Level 2 makes no such claim.
    assert command().exit_code == 0


def test_level_3_by_another_key(command, artifact, key):
    _release(artifact, SigningKey.generate())
    assert command("--independent").exit_code == 0
    assert record_in(artifact, key).predicate.level == 3


def test_out_names_the_file(command, artifact, tmp_path):
    assert command("--out", str(tmp_path / "record.json")).exit_code == 0
    assert not (artifact / "attestations").exists()
    again = command("--out", str(tmp_path / "record.json"))
    assert again.exit_code == 1
    assert "cannot be written" in again.stderr


def test_the_key_may_come_from_the_environment(command, artifact, key, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, (tmp_path / "vetter.pem").read_text())
    assert command("--level", "1", signing=()).exit_code == 0
    assert record_in(artifact, key).predicate.vetted_by == key.public.text


def test_without_a_key_nothing_is_measured(command, artifact):
    result = command(signing=(), model="no such folder")
    assert result.exit_code == 1
    assert "no key to sign with" in result.stderr


def test_a_reference_is_written_into_its_registry(command, tmp_path, key):
    registry = tmp_path / "registry"
    shutil.copytree(registry_for(shared_model()).root, registry)
    result = command("--registry", str(registry), named="harmful-intent@^1")
    assert result.exit_code == 0, result.output
    assert record_in(registry / "harmful-intent" / "tiny" / "1.0.0", key).predicate.verdict == "pass"


def test_nothing_is_written_into_the_embedded_registry(key, tmp_path):
    assert find_artifact("harmful-intent@^2", None).folder is None
    signing = ("--key", str(tmp_path / "vetter.pem"))
    result = CliRunner().invoke(app, ["harmful-intent@^2", "--model", "x", "--vetter", "lab", *signing])
    assert result.exit_code == 1
    assert "embedded registry" in result.stderr


@pytest.mark.parametrize(
    ("named", "said"),
    [("hf://acme/probe@^1", "on this machine"), ("nothing@^1", "no family"), ("no such folder", "reference")],
)
def test_an_artifact_that_is_not_there_is_named(command, named, said):
    result = command(named=named)
    assert result.exit_code == 1
    assert said in result.stderr


def test_side_effects_make_a_new_version_that_may_be_published(command, artifact, tmp_path):
    before = dict(read_folder(artifact))
    result = command(
        *("--measure-side-effects", "--new-version", "1.0.1", "--to", str(tmp_path / "new")),
        signing=(),
        at_least="{value: 1000.0}",
    )
    assert result.exit_code == 0, result.output
    require_publishable(read_folder(tmp_path / "new"))
    assert dict(read_folder(artifact)) == before
    assert "Over-refusal" in result.stdout
    assert not (tmp_path / "new" / "attestations").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--measure-side-effects",), "--new-version"),
        (("--measure-side-effects", "--new-version", "1.1.0", "--to", "new"), "PATCH"),
        (("--new-version", "1.0.1"), "--measure-side-effects"),
    ],
)
def test_a_new_version_is_asked_for_in_full(command, more, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command(*more, model="no such folder")
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "new").exists()


def test_an_interrupt_writes_nothing(command, artifact, monkeypatch):
    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(Answerer, "answer", interrupted)
    result = command()
    assert result.exit_code == INTERRUPTED
    assert "nothing was written" in result.stderr
    assert not (artifact / "attestations").exists()


def _release(artifact, key):
    found = find_artifact(str(artifact), None).artifact
    statement = release_statement(found.manifest, found.digest, "acme", "2026-01-01T00:00:00Z")
    path = artifact / release_path(key.public.id)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(sign(statement, STATEMENT, (key,)))


def test_the_registry_group_has_the_same_command():
    from steerguard.cli.registry import COMMANDS

    assert COMMANDS["vet"] is vet
