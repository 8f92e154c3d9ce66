from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.audit_events import bypass
from typer.testing import CliRunner

from steerguard.audit.log import AuditLog
from steerguard.audit.upkeep import retention
from steerguard.audit.upkeep.hold import HOLD_FILE
from steerguard.cli.audit import app

runner = CliRunner()


@pytest.fixture
def directory(tmp_path):
    """A finished log of two segments."""
    with AuditLog.open(tmp_path, content="none") as log:
        log.record(bypass())
        log.rotate()
        log.record(bypass())
    return tmp_path


@pytest.fixture
def in_two_years(monkeypatch):
    """Set the clock of pruning, and of nothing else, two years ahead."""

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=730)

    monkeypatch.setattr(retention, "datetime", Later)


def _prune(directory, *options):
    return runner.invoke(app, ["prune", str(directory), *options])


def _hold(directory, *options):
    return runner.invoke(app, ["hold", str(directory), *options])


def test_prune_says_that_nothing_is_old(directory):
    result = _prune(directory)
    assert result.exit_code == 0
    cutoff = datetime.now(UTC) - timedelta(days=400)
    assert result.output.startswith(f"No segment ends before {cutoff:%Y-%m-%dT}")


@pytest.mark.usefixtures("in_two_years")
def test_prune_deletes_and_the_rest_verifies(directory):
    tried = _prune(directory, "--dry-run").output.splitlines()
    assert [line.rpartition(", ")[2] for line in tried] == ["would be deleted", "the last of its log"]
    done = _prune(directory).output.splitlines()
    assert done == [line.replace("would be deleted", "deleted") for line in tried]
    assert "segment 0: 2 records" in done[0]
    assert runner.invoke(app, ["verify", str(directory), "--strict"]).exit_code == 0
    assert _prune(directory, "--dry-run", "--older-than", "731").output.startswith("No segment")


@pytest.mark.usefixtures("in_two_years")
def test_prune_as_json(directory):
    found = json.loads(_prune(directory, "--json", "--dry-run", "--older-than", "500").output)
    assert (found["older_than_days"], found["dry_run"], found["finished"], found["kept"]) == (500, True, [], [])
    assert [(one["segment"], one["whole"]) for one in found["segments"]] == [(0, False), (1, True)]


@pytest.mark.usefixtures("in_two_years")
def test_a_short_time_needs_a_reason(directory):
    result = _prune(directory, "--older-than", "100")
    assert result.exit_code == 1
    assert "--allow-short" in result.output
    assert _prune(directory, "--older-than", "100", "--allow-short", "a test").exit_code == 0


@pytest.mark.usefixtures("in_two_years")
def test_a_log_that_does_not_verify_is_named(directory):
    first = min(directory.glob("*.jsonl"))
    first.chmod(0o600)
    first.write_bytes(first.read_bytes().replace(b'"kind":', b'"kinx":'))
    first.chmod(0o400)
    assert "kept, it does not verify" in _prune(directory).output
    assert first.exists()


@pytest.mark.usefixtures("in_two_years")
def test_a_hold_is_placed_shown_lifted_and_keeps_everything(directory):
    assert _hold(directory).output == "No legal hold is in force.\n"
    placed = _hold(directory, "--reason", "case 17")
    assert placed.exit_code == 0
    assert placed.output == _hold(directory).output
    assert placed.output.rstrip().endswith(": case 17")
    refused = _prune(directory)
    assert refused.exit_code == 1
    assert "LegalHoldError" in refused.output
    assert _hold(directory, "--release", "--reason", "closed").output == "No legal hold is in force.\n"
    assert _prune(directory).exit_code == 0


def test_a_release_needs_a_reason(directory):
    _hold(directory, "--reason", "case 17")
    assert _hold(directory, "--release").exit_code == 2
    assert (directory / HOLD_FILE).exists()


def test_hold_as_json(directory):
    assert json.loads(_hold(directory, "--json").output) == {"version": 1, "hold": None}
    placed = json.loads(_hold(directory, "--reason", "case 17", "--json").output)
    assert placed["hold"]["reason"] == "case 17"
    assert json.loads(_hold(directory, "--json").output) == placed


def test_a_directory_that_is_not_there(tmp_path):
    for result in (_prune(tmp_path / "absent"), _hold(tmp_path / "absent", "--reason", "case 17")):
        assert result.exit_code == 1
        assert "AuditSinkError" in result.output
        assert not (tmp_path / "absent").exists()
