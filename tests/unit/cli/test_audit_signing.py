"""Maintenance commands sign with the key of the service, and say when they would not."""

from __future__ import annotations

import json

import pytest
from tests.audit_events import bypass
from typer.testing import CliRunner

from steerguard.audit.copies import DirectoryCopy
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verify import Pins, verify_directory
from steerguard.cli.audit import app
from steerguard.signing.keys import SigningKey

runner = CliRunner()
NAME = "web-1"


@pytest.fixture
def service_key(tmp_path):
    """The file of a key that lies outside of the directory of the logs."""
    path = tmp_path / "service.key"
    SigningKey.create(path)
    return path


@pytest.fixture
def pinned(service_key):
    """What verifiers have of it."""
    return NoteKey(NAME, SigningKey.from_file(service_key).public)


@pytest.fixture
def logs(tmp_path, service_key):
    """A directory with a log of the service."""
    directory = tmp_path / "logs"
    settings = CheckpointSettings(signer=SigningKey.from_file(service_key), name=NAME)
    with AuditLog.open(directory, checkpoints=settings) as log:
        log.record(bypass())
    return directory


def _signed(service_key):
    return ["--signing-key", str(service_key), "--key-name", NAME]


MAINTENANCE = {
    "hold": ["hold", "--reason", "case 7"],
    "rotate": ["rotate", "--purpose", "content"],
}


@pytest.mark.parametrize("command", list(MAINTENANCE))
def test_a_command_signs_with_the_key_of_the_service(logs, service_key, pinned, tmp_path, command):
    name, *options = MAINTENANCE[command]
    copy = tmp_path / "elsewhere"
    result = runner.invoke(app, [name, str(logs), *options, *_signed(service_key), "--copy", str(copy)])
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    report = verify_directory(logs, Pins(keys=(pinned,)))
    assert (report.status, report.anchored, len(report.logs)) == ("ok", True, 2)
    assert [path.name for path in copy.iterdir()] == [f"{report.logs[1].log}.checkpoints"]
    assert not (logs / "checkpoint.key").exists()


def test_what_the_service_key_pruned_counts_for_whoever_pins_it(logs, service_key, pinned, monkeypatch):
    from datetime import datetime, timedelta

    from steerguard.audit.upkeep import retention

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=730)

    monkeypatch.setattr(retention, "datetime", Later)
    result = runner.invoke(app, ["prune", str(logs), *_signed(service_key)])
    assert (result.exit_code, result.stderr) == (0, "")
    report = verify_directory(logs, Pins(keys=(pinned,)))
    assert (report.status, len(report.pruned), report.pruned[0].anchored) == ("ok", 1, True)


def test_erase_signs_with_the_key_of_the_service(tmp_path, service_key, pinned):
    from steerguard.audit.privacy.sealing import SealingKey

    directory = tmp_path / "logs"
    settings = CheckpointSettings(signer=SigningKey.from_file(service_key), name=NAME)
    sealing = SealingKey.create(tmp_path / "sealing.key")
    with AuditLog.open(directory, content="encrypted", sealing=sealing, checkpoints=settings) as log:
        log.seal(b"{}", req="request-1", row=0)
    options = ["--request", "request-1", "--reason", "asked for", "--yes", "--json"]
    result = runner.invoke(app, ["erase", str(directory), *options, *_signed(service_key)])
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["erased"] == 1
    report = verify_directory(directory, Pins(keys=(pinned,)))
    assert (report.status, len(report.logs)) == ("ok", 2)


def test_another_key_is_warned_of_before_it_signs(logs, pinned):
    result = runner.invoke(app, ["hold", str(logs), "--reason", "case 7"])
    assert result.exit_code == 0
    assert f"signed by {NAME}+{pinned.hash}; this command signs with a key that is made now" in result.stderr
    assert "--signing-key FILE" in result.stderr
    own = NoteKey("steerguard-audit", SigningKey.from_file(logs / "checkpoint.key").public)
    again = runner.invoke(app, ["hold", str(logs), "--release", "--reason", "case 7"])
    assert f"signed by {NAME}+{pinned.hash}; this command signs with steerguard-audit+{own.hash}" in again.stderr
    assert verify_directory(logs, Pins(keys=(pinned,))).logs[-1].first_bad.fault == "unpinned"


def test_the_name_belongs_to_the_key(logs, service_key, pinned):
    result = runner.invoke(app, ["hold", str(logs), "--reason", "case 7", "--signing-key", str(service_key)])
    assert f"signed by {NAME}+{pinned.hash}" in result.stderr
    assert "this command signs with steerguard-audit+" in result.stderr


def test_a_key_that_was_rotated_in_is_no_other_key(tmp_path):
    with AuditLog.open(tmp_path / "logs") as log:
        log.record(bypass())
    assert runner.invoke(app, ["rotate", str(tmp_path / "logs"), "--purpose", "checkpoint"]).exit_code == 0
    result = runner.invoke(app, ["hold", str(tmp_path / "logs"), "--reason", "case 7"])
    assert (result.exit_code, result.stderr) == (0, "")


def test_looking_signs_nothing_and_warns_of_nothing(logs):
    for command in (["hold", str(logs)], ["prune", str(logs), "--dry-run"]):
        result = runner.invoke(app, command)
        assert (result.exit_code, result.stderr) == (0, "")
    assert not (logs / "checkpoint.key").exists()


def test_options_that_cannot_be_are_refused(logs, service_key, tmp_path):
    beside = runner.invoke(app, ["hold", str(logs), "--reason", "case 7", "--copy", str(logs)])
    assert (beside.exit_code, len(list(logs.glob("*.jsonl")))) == (2, 1)
    rotated = runner.invoke(app, ["rotate", str(logs), "--purpose", "checkpoint", "--signing-key", str(service_key)])
    assert rotated.exit_code == 2
    missing = runner.invoke(app, ["hold", str(logs), "--reason", "case 7", "--signing-key", str(tmp_path / "no.key")])
    assert (missing.exit_code, "no.key" in missing.stderr) == (1, True)


def test_the_checkpoints_of_a_rotation_go_to_a_copy(tmp_path):
    logs, copy = tmp_path / "logs", tmp_path / "elsewhere"
    with AuditLog.open(logs, checkpoints=CheckpointSettings(copies=(DirectoryCopy(copy),))) as log:
        log.record(bypass())
    assert runner.invoke(app, ["rotate", str(logs), "--purpose", "checkpoint", "--copy", str(copy)]).exit_code == 0
    assert len(list(copy.iterdir())) == 2
