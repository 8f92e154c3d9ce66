"""`steerguard audit replay`."""

from __future__ import annotations

import json

import pytest
from tests import audit_days as days
from tests.guarded_models import guarded, policy, prompts, registry_for, run, shared_model, splitting_threshold
from typer.testing import CliRunner

from steerguard.audit.log import AuditLog
from steerguard.cli.audit import app

ROWS = 4


def replay(*arguments):
    return CliRunner().invoke(app, ["replay", *map(str, arguments)])


@pytest.fixture
def logs(tmp_path):
    directory = tmp_path / "audit"
    model = shared_model()
    with (
        AuditLog.open(directory, content="none") as log,
        guarded(model, policy(splitting_threshold(rows=ROWS), "refuse"), audit=log) as wrapped,
    ):
        run(wrapped, prompts(ROWS))
    return directory


@pytest.fixture
def other(tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text(json.dumps(policy(-1e6, "refuse").document()))
    return file


def test_a_log_agrees_with_itself(logs):
    result = replay(logs)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{ROWS} decisions: {ROWS} follow from their own line, 0 do not\n"
    assert replay(logs, "--check").stdout == result.stdout


def test_another_policy_shows_what_would_differ(logs, other):
    registry = registry_for(shared_model()).root
    result = replay(logs, "--policy", other, "--registry", registry, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["decided"] == ROWS
    assert document["actions"] == {"allow → refuse": 2, "refuse → refuse": 2}
    assert document["rules"] == {"+ r": 2}
    assert {one["after"] for one in document["changes"]} == {"refuse"}
    text = replay(logs, "--policy", other, "--registry", registry, "--list", 1).stdout
    assert "4 decisions under" in text
    assert ": 2 differ, 2 stay, 0 cannot be decided" in text
    assert "1 more; see --list" in text


def test_what_cannot_be_decided_is_counted_with_its_reason(logs, other):
    result = replay(logs, "--policy", other)
    assert result.exit_code == 0, result.output
    assert "4 cannot be decided" in result.stdout
    assert "the policy does not compile for its model" in result.stdout


def test_a_verdict_that_does_not_follow_from_its_line_is_exit_status_one(tmp_path):
    day = days.Day(tmp_path, days.START)
    day.record(1, days.decided("good", 2.5))
    day.record(2, days.decided("bad", 2.5, rules=(), cause="default", intended="allow", applied="allow"))
    day.close(3)
    result = replay(tmp_path)
    assert result.exit_code == 1
    assert "2 decisions: 1 follow from their own line, 1 do not" in result.stdout
    assert "(bad row 0): `guide_suspected_harm` matched by the readings" in result.stdout


def test_a_record_of_another_shape_is_said_and_not_decided(tmp_path):
    day = days.Day(tmp_path, days.START)
    day.record(1, {"type": "guard.decision", "req": "x"})
    day.close(3)
    result = replay(tmp_path)
    assert result.exit_code == 1
    assert "do not fit the schema of their type: 1" in result.stderr


def test_a_period_is_taken(tmp_path):
    days.write_days(tmp_path, days=3, requests=5)
    whole, part = (json.loads(replay(tmp_path, "--json", *more).stdout) for more in ((), ("--since", "2026-03-03")))
    assert 0 < part["records"] < whole["records"]


@pytest.mark.parametrize("arguments", [("--policy", "no-such-policy"), ("--check", "--policy", "refuse-only")])
def test_what_was_asked_wrongly_is_exit_status_two(tmp_path, arguments):
    days.write_days(tmp_path, days=1, requests=2)
    result = replay(tmp_path, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
