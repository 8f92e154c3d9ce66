from __future__ import annotations

import stat

import pytest
from typer.testing import CliRunner

from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import KEY_VARIABLE, ContentKey
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.writing.checkpoint_keys import CHECKPOINT_VARIABLE
from steerguard.cli.audit import app
from steerguard.signing.keys import SigningKey


@pytest.fixture(autouse=True)
def _no_keys_in_the_environment(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)


def audit(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("file", "public"), [("audit.key", "audit.vkey"), ("audit", "audit.vkey"), ("a.pem", "a.pem.vkey")]
)
def test_a_checkpoint_key_is_made_with_its_verifier_key(tmp_path, file, public):
    result = audit("keygen", tmp_path / file)
    assert result.exit_code == 0, result.output
    key = NoteKey.parse(result.stdout)
    assert (key.name, key.public) == ("steerguard-audit", SigningKey.from_file(tmp_path / file).public)
    assert (tmp_path / public).read_text() == result.stdout
    assert stat.S_IMODE((tmp_path / file).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file, public])


def test_a_checkpoint_key_may_have_a_name(tmp_path):
    assert (
        NoteKey.parse(audit("keygen", tmp_path / "k", "--name", "example.com/audit").stdout).name == "example.com/audit"
    )
    result = audit("keygen", tmp_path / "other", "--name", "a b")
    assert result.exit_code == 1
    assert "name of a checkpoint key" in result.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("purpose", "kind"), [("content", ContentKey), ("sealing", SealingKey)])
def test_other_keys_are_made_without_a_public_half(tmp_path, purpose, kind):
    path = tmp_path / "secret.key"
    result = audit("keygen", path, "--purpose", purpose)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"id  {kind.from_file(path).id}\n"
    assert path.read_text().strip() not in result.output
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("purpose", ["checkpoint", "content", "sealing"])
def test_a_folder_that_is_not_there_is_what_the_next_step_names(tmp_path, purpose):
    result = audit("keygen", tmp_path / "absent" / "some.key", "--purpose", purpose)
    assert result.exit_code == 1
    assert "in a folder that exists" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("purpose", ["checkpoint", "content", "sealing"])
def test_no_key_is_overwritten(tmp_path, purpose):
    path = tmp_path / "some.key"
    path.write_text("precious")
    result = audit("keygen", path, "--purpose", purpose)
    assert result.exit_code == 1
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]


def test_no_verifier_key_is_overwritten(tmp_path):
    (tmp_path / "some.vkey").write_text("precious")
    result = audit("keygen", tmp_path / "some.key")
    assert result.exit_code == 1
    assert "verifier key already" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["some.vkey"]


def test_a_log_takes_the_key_that_was_made_for_it(tmp_path):
    printed = audit("keygen", tmp_path / "checkpoint.key").stdout.strip()
    audit("keygen", tmp_path / "content.key", "--purpose", "content")
    with AuditLog.open(tmp_path) as log:
        assert log.checkpoint_key.text == printed
        assert log.key == ContentKey.from_file(tmp_path / "content.key")


def test_a_content_key_is_rotated(tmp_path):
    AuditLog.open(tmp_path).close()
    old = ContentKey.from_file(tmp_path / "content.key")
    result = audit("rotate", tmp_path, "--purpose", "content")
    assert result.exit_code == 0, result.output
    new = ContentKey.from_file(tmp_path / "content.key")
    assert result.stdout.splitlines()[:2] == [
        f"old key  {old.id}, kept in {tmp_path / f'content.{old.id}.key'}",
        f"new key  {new.id}",
    ]


def test_a_checkpoint_key_is_rotated_and_destroyed(tmp_path):
    AuditLog.open(tmp_path).close()
    old = NoteKey.parse((tmp_path / "checkpoint.vkey").read_text())
    result = audit("rotate", tmp_path, "--purpose", "checkpoint", "--destroy-old")
    assert result.exit_code == 0, result.output
    new = (tmp_path / "checkpoint.vkey").read_text().strip()
    assert result.stdout.splitlines()[:2] == [f"old key  {old.hash}, destroyed", f"new key  {new}"]
    assert audit("verify", tmp_path, "--key", old.text).exit_code == 0


def test_a_rotation_that_was_interrupted_says_so(tmp_path):
    AuditLog.open(tmp_path).close()
    (tmp_path / "content.0badc0de.destroy").write_bytes(b"what is left of a key")
    result = audit("rotate", tmp_path, "--purpose", "content")
    assert result.exit_code == 0, result.output
    assert "old key  0badc0de, destroyed" in result.stdout
    assert "interrupted" in result.stdout
    assert not (tmp_path / "content.0badc0de.destroy").exists()


def test_a_purpose_must_be_given(tmp_path):
    assert audit("rotate", tmp_path).exit_code == 2
    assert audit("rotate", tmp_path, "--purpose", "sealing").exit_code == 2


def test_there_must_be_a_key_to_rotate(tmp_path):
    result = audit("rotate", tmp_path, "--purpose", "content")
    assert result.exit_code == 1
    assert "no key to replace" in result.stderr


def test_help_says_what_goes_on_with_the_old_key():
    text = " ".join(audit("rotate", "--help").output.replace("│", " ").split())
    assert "go on with the key that they opened it with" in text
