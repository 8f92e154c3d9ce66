from __future__ import annotations

import json

import pytest
from tests.audit_events import decision, recorded_content
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.sealing import SEALING_VARIABLE, SealingKey
from steerguard.audit.upkeep.erase import sealed_rows
from steerguard.audit.upkeep.hold import place_hold
from steerguard.cli.audit import app

runner = CliRunner()


@pytest.fixture
def key(tmp_path):
    return SealingKey.create(tmp_path / "sealing.key")


@pytest.fixture
def directory(tmp_path, key):
    """A finished log with two sealed rows of request-1."""
    audit = tmp_path / "audit"
    with AuditLog.open(audit, content="encrypted", sealing=key) as log:
        for row in range(2):
            payload = json.dumps({"prompt": f"prompt {row}", "answer": None}).encode()
            sealed = log.seal(payload, req="request-1", row=row)
            content = recorded_content(sealed=sealed)
            log.record(decision(req="request-1", row=row, content=content))
    return audit


def _left(directory):
    return sum(rows.readable for rows in sealed_rows(directory, "request-1"))


def _erase(directory, *options, given=None):
    command = ["erase", str(directory), "--request", "request-1", "--reason", "asked", *options]
    return runner.invoke(app, command, input=given)


def test_erase_asks_erases_and_says_how_many(directory):
    result = _erase(directory, given="y\n")
    assert result.exit_code == 0
    assert "Erase the content of 2 rows for good?" in result.output
    assert result.output.rstrip().endswith("2 rows erased")
    assert _left(directory) == 0


@pytest.mark.parametrize("given", ["n\n", "\n", ""])
def test_without_a_yes_nothing_is_erased(directory, given):
    assert _erase(directory, given=given).exit_code == 1
    assert _left(directory) == 2
    assert len(logs_in(directory)) == 1


def test_a_second_run_says_that_nothing_is_left(directory):
    assert _erase(directory, "--yes").exit_code == 0
    result = _erase(directory)
    assert result.exit_code == 0
    assert result.output == "Request request-1 has no encrypted content left: 2 rows erased before.\n"


def test_a_request_that_was_never_there_is_told(tmp_path, directory):
    asked = ["erase", str(directory), "--request", "other", "--reason", "asked"]
    result = runner.invoke(app, asked)
    assert result.exit_code == 2
    # What was pruned may have been its content, so it is not said that there never was any.
    assert "There is no encrypted content of request other in this directory" in result.output
    result = runner.invoke(app, [*asked, "--json"])
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "version": 1, "request": "other", "erased": 0, "erased_before": 0, "logs": [],
    }  # fmt: skip


def test_erase_as_json(directory):
    (files,) = logs_in(directory)
    assert json.loads(_erase(directory, "--yes", "--json").output) == {
        "version": 1,
        "request": "request-1",
        "erased": 2,
        "erased_before": 0,
        "logs": [{"log": files.log, "erased": 2, "erased_before": 0}],
    }


def test_a_hold_refuses_with_the_next_step(directory):
    place_hold(directory, reason="case 17")
    result = _erase(directory, "--yes")
    assert result.exit_code == 1
    assert "LegalHoldError" in result.output
    assert "--release" in result.output
    assert _left(directory) == 2


def test_the_logs_verify_after_it(directory):
    _erase(directory, "--yes")
    assert runner.invoke(app, ["verify", str(directory), "--strict"]).exit_code == 0


def test_content_prints_the_rows_as_json(tmp_path, directory):
    result = runner.invoke(
        app, ["content", str(directory), "--request", "request-1", "--sealing-key", str(tmp_path / "sealing.key")]
    )
    assert result.exit_code == 0
    rows = json.loads(result.output)["rows"]
    assert [(row["row"], row["content"]["prompt"], row["error"]) for row in rows] == [
        (0, "prompt 0", None),
        (1, "prompt 1", None),
    ]


def test_content_takes_the_key_of_the_environment(tmp_path, directory, monkeypatch):
    monkeypatch.setenv(SEALING_VARIABLE, (tmp_path / "sealing.key").read_text("ascii"))
    assert runner.invoke(app, ["content", str(directory), "--request", "request-1"]).exit_code == 0


def test_content_without_a_key_says_how_to_give_one(directory, monkeypatch):
    monkeypatch.delenv(SEALING_VARIABLE, raising=False)
    result = runner.invoke(app, ["content", str(directory), "--request", "request-1"])
    assert result.exit_code == 2
    assert SEALING_VARIABLE in result.output
    assert "--sealing-key" in result.output


def test_content_of_an_erased_request_says_so(tmp_path, directory):
    _erase(directory, "--yes")
    result = runner.invoke(
        app, ["content", str(directory), "--request", "request-1", "--sealing-key", str(tmp_path / "sealing.key")]
    )
    assert result.exit_code == 1
    assert {row["error"] for row in json.loads(result.output)["rows"]} == {"ContentErasedError"}


def test_content_of_an_unknown_request_is_exit_2(tmp_path, directory):
    result = runner.invoke(
        app, ["content", str(directory), "--request", "other", "--sealing-key", str(tmp_path / "sealing.key")]
    )
    assert result.exit_code == 2
