from __future__ import annotations

import json
from typing import get_args

import pytest
from tests.audit_events import LOG, OTHER_LOG, bypass, decision, refusal, request, sized_content
from tests.chained_logs import fields, write_log
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.reading.stats import Grouping
from steerguard.cli.audit import app


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["stats", *(str(argument) for argument in arguments)])


@pytest.fixture
def logs(tmp_path):
    write_log(tmp_path, [refusal(), decision(), request(duration_us=2_000_000), bypass()], log=OTHER_LOG)
    write_log(
        tmp_path, [decision(mode="monitor", applied="allow"), decision(content=sized_content(answer=None))], log=LOG
    )
    return tmp_path


def test_text_gives_counts_shares_and_quantiles(logs):
    result = run(logs)
    assert (result.exit_code, result.stderr) == (0, "")
    shown = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert shown[0] == "10 records, 2026-11-22T07:15:00.000000Z to 2026-11-22T07:15:05.000000Z"
    assert shown[1] == ("3 decisions: 1 (33.3%, 95 % 6.1% to 79.2%) refused, 1 (33.3%, 95 % 6.1% to 79.2%) guided")
    assert shown[2] == "tokens: 171 of prompts, 384 generated, 0 extra forward tokens"
    assert shown[3] == "1 more were recorded before a streamed answer; the complete records count"
    for line in ("1 guide → allow", "3 rule", "1 unguided", "1 generate", "4 guard.decision"):
        assert line in shown
    (duration,) = (line for line in shown if "duration of a request, ms" in line)
    assert duration.count("2000") == 5
    assert "Median, p95 and p99 are off by at most 1% of themselves." in shown


def test_json_has_the_same_figures(logs):
    document = json.loads(run(logs, "--json").stdout)
    assert (document["records"], document["decisions"], document["announced"]) == (10, 3, 1)
    assert document["refused"]["count"] == 1
    assert document["scores"]["harmful_intent"]["count"] == 3


@pytest.mark.parametrize("by", get_args(Grouping))
def test_groups_have_a_line_each(logs, by):
    result = run(logs, "--by", by)
    assert result.exit_code == 0
    groups = json.loads(run(logs, "--by", by, "--json").stdout)["groups"]
    assert groups
    for name in groups:
        assert any(f" {name} " in line for line in result.stdout.splitlines()[-len(groups) - 1 :])


def test_only_the_time_that_was_asked_for_counts(logs):
    document = json.loads(
        run(logs, "--since", "2026-11-22T07:15:02Z", "--until", "2026-11-22T07:15:03Z", "--json").stdout
    )
    assert document["types"] == {"guard.decision": 2}
    assert document["decisions"] == 1


def test_a_time_without_records_gives_zeros(logs):
    result = run(logs, "--until", "2026-01-01")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == ["0 records", "0 decisions: 0 refused, 0 guided"]


def test_a_broken_log_counts_as_far_as_it_verifies(logs):
    path = logs / segment_name(OTHER_LOG, 0)
    path.write_bytes(path.read_bytes().replace(b"scoring", b"scorin9"))
    result = run(logs, "--json")
    assert result.exit_code == 1
    assert f"{OTHER_LOG}: broken, 4 records verified" in result.stderr
    assert json.loads(result.stdout)["bypasses"] == {}


def test_what_does_not_fit_is_counted_and_exits_1(tmp_path):
    hostile = "\x1b[2J\x9b\x7f"
    write_log(tmp_path, [{**fields(decision()), "cause": hostile}, {"type": hostile}, refusal()])
    result = run(tmp_path, "--by", "policy")
    assert result.exit_code == 1
    assert "records that do not fit the schema of their type: 2" in result.stderr
    assert [one for one in result.output if not one.isprintable() and one != "\n"] == []
    assert json.loads(run(tmp_path, "--json").stdout)["misfits"] == 2


@pytest.mark.parametrize("options", [["--since", "yesterday"], ["--by", "hour"]])
def test_what_cannot_be_asked_exits_2(logs, options):
    assert run(logs, *options).exit_code == 2


def test_nothing_to_read_exits_2(tmp_path):
    assert run(tmp_path).exit_code == 2
    assert run(tmp_path / "absent").exit_code == 2
