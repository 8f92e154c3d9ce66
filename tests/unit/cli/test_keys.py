from __future__ import annotations

import json
import stat

import pytest
from typer.testing import CliRunner

from steerguard.cli.keys import app
from steerguard.signing.keys import PublicKey, SigningKey


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("STEERGUARD_SIGNING_KEY", raising=False)


def run(*arguments, **environment):
    return CliRunner(env=environment).invoke(app, [str(argument) for argument in arguments])


def test_new_makes_a_key_that_only_its_owner_reads(tmp_path):
    result = run("new", tmp_path / "key.pem", "--json")
    assert result.exit_code == 0
    key = SigningKey.from_file(tmp_path / "key.pem")
    assert json.loads(result.stdout) == {"id": key.public.id, "key": key.public.text}
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_new_never_replaces_a_key(tmp_path):
    run("new", tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    result = run("new", tmp_path / "key.pem")
    assert result.exit_code == 1
    assert "SigningKeyError" in result.stderr
    assert (tmp_path / "key.pem").read_bytes() == before


def test_show_prints_the_public_key_and_nothing_of_the_secret(tmp_path):
    key = SigningKey.create(tmp_path / "key.pem")
    result = run("show", tmp_path / "key.pem")
    assert result.exit_code == 0
    assert result.stdout == f"id   {key.public.id}\nkey  {key.public.text}\n"
    assert PublicKey.parse(result.stdout.split()[-1]) == key.public


def test_show_reads_the_environment(tmp_path):
    key = SigningKey.create(tmp_path / "key.pem")
    result = run("show", STEERGUARD_SIGNING_KEY=(tmp_path / "key.pem").read_text())
    assert key.public.text in result.stdout


def test_show_without_a_key_says_what_to_do():
    result = run("show")
    assert result.exit_code == 1
    assert "keys new" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("content", ["", "no key at all"])
def test_what_is_no_key_is_refused_without_its_content(tmp_path, content):
    file = tmp_path / "key.pem"
    file.write_text(content)
    file.chmod(0o600)
    result = run("show", file)
    assert result.exit_code == 1
    assert "SigningKeyError" in result.stderr
    assert "no key at all" not in result.output


def test_a_key_that_others_can_read_is_refused(tmp_path):
    SigningKey.create(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o644)
    assert "open to other users" in run("show", tmp_path / "key.pem").stderr
