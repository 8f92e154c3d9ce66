from __future__ import annotations

import json

import pytest
from tests.audit_events import LOG, OTHER_LOG, SAMPLES, bypass, decision, reading, refusal, request, sized_content
from tests.built_audit_logs import PINNED, Builder, events
from tests.chained_logs import OPEN, chained, content, fields, write_log
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.log import AuditLog
from steerguard.cli.audit import app


def run(*arguments):
    return CliRunner(env={"COLUMNS": "240"}).invoke(app, ["query", *(str(argument) for argument in arguments)])


def asked(*arguments):
    """Log and sequence number of what is shown as lines of JSON."""
    result = run(*arguments, "--jsonl")
    assert result.exit_code == 0, result.output
    return [(found["log"], found["seq"]) for found in map(json.loads, result.stdout.splitlines())]


@pytest.fixture
def logs(tmp_path):
    write_log(tmp_path, [decision(req="r1"), request(), refusal(req="r2")], log=OTHER_LOG)
    write_log(tmp_path, [refusal(req="r3", row=4), bypass()], log=LOG)
    return tmp_path


def test_decisions_are_shown_with_scores_thresholds_and_doses(logs):
    near = reading("close", 1.2).model_copy(update={"near": True})
    unknown = reading("odd").model_copy(update={"score": None})
    body = decision(req="r9").model_copy(update={"readings": (near, unknown)})
    write_log(logs, [body], log=LOG)
    result = run(logs, "--request", "r9")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert "close 1.2 vs ≥ 5.25 (refuse_clear_harm), ≥ 1.25 (guide_suspected_harm)" in shown
    assert "within the tolerance" in shown
    assert "odd not finite vs" in shown
    assert "guide → guide" in shown
    assert "align x1.0, 1 blocks, 24/24 positions" in shown
    assert "guide_suspected_harm" in shown
    assert "r1" not in result.stdout


def test_the_newest_are_shown_oldest_first(logs):
    # Both logs have the same times; equal ones go by log.
    assert asked(logs) == [(OTHER_LOG, 1), (LOG, 1), (OTHER_LOG, 3)]
    assert asked(logs, "--last", 2) == [(LOG, 1), (OTHER_LOG, 3)]
    assert asked(logs / segment_name(LOG, 0)) == [(LOG, 1)]


def test_where_the_clock_was_set_back_a_log_keeps_its_order(tmp_path):
    times = ("2026-11-22T08:00:05.000000Z", "2026-11-22T08:00:01.000000Z", "2026-11-22T08:00:02.000000Z")
    write_log(tmp_path, [{**fields(refusal()), "t": t} for t in times])
    assert asked(tmp_path) == [(LOG, 1), (LOG, 2), (LOG, 3)]
    assert asked(tmp_path, "--last", 1) == [(LOG, 3)]


def test_twenty_records_are_shown_unless_asked_otherwise(tmp_path):
    write_log(tmp_path, [refusal()] * 30)
    assert asked(tmp_path) == [(LOG, seq) for seq in range(11, 31)]
    assert len(asked(tmp_path, "--last", 25)) == 25


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--request", "r2"], [(OTHER_LOG, 3)]),
        (["--action", "refuse"], [(LOG, 1), (OTHER_LOG, 3)]),
        (["--intended", "guide"], [(OTHER_LOG, 1)]),
        (["--cause", "default"], []),
        (["--rule", "guide_suspected_harm"], [(OTHER_LOG, 1)]),
        (["--policy", "harmlessness", "--log", LOG], [(LOG, 1)]),
        (["--tenant", "acme"], []),
        (["--since", "2026-11-22T07:15:02Z"], [(OTHER_LOG, 3)]),
        (["--until", "2026-11-22T08:15:02+01:00"], [(OTHER_LOG, 1), (LOG, 1)]),
        (["--until", "2026-11-22"], []),
        (["--type", "guard.bypass", "--type", "guard.request"], [(LOG, 2), (OTHER_LOG, 2)]),
        (["--type", "log.*"], [(OTHER_LOG, 0), (LOG, 0), (LOG, 3), (OTHER_LOG, 4)]),
        (["--type", "all", "--request", "r2"], [(OTHER_LOG, 3)]),
    ],
)
def test_every_filter(logs, options, expected):
    assert sorted(asked(logs, *options)) == sorted(expected)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--since", "yesterday"], "not a time"),
        (["--type", "guard.decisions"], "no such event type"),
        (["--action", "block"], "allow, annotate, guide, refuse"),
        (["--cause", "\x1b[31m"], r"\x1b[31m"),
        (["--json", "--jsonl"], "not both"),
        (["--key", "nonsense"], "AuditKeyError"),
    ],
)
def test_what_cannot_be_asked_exits_2(logs, options, said):
    result = run(logs, *options)
    assert result.exit_code == 2
    assert said in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize("name", ["", "absent", f"{LOG}.000000.jsonl"])
def test_nothing_to_read_exits_2(tmp_path, name):
    result = run(tmp_path / name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr


@pytest.mark.parametrize(
    ("form", "printed"), [([], ""), (["--type", "all"], ""), (["--jsonl"], ""), (["--json"], "[\n]\n")]
)
def test_no_match_is_said_and_is_no_failure(logs, form, printed):
    result = run(logs, "--request", "absent", *form)
    assert (result.exit_code, result.stdout, result.stderr) == (0, printed, "No record was found.\n")


def test_json_is_an_array_of_records(logs):
    assert [found["req"] for found in json.loads(run(logs, "--json").stdout)] == ["r1", "r3", "r2"]
    assert json.loads(run(logs, "--json", "--request", "absent").stdout) == []


def test_lines_come_out_as_they_stand_in_the_log(logs):
    lines = (logs / segment_name(LOG, 0)).read_text("ascii")
    assert run(logs, "--log", LOG, "--type", "all", "--jsonl").stdout == lines


def test_records_of_other_types_have_one_line_each(tmp_path):
    kinds = [
        kind for kind in sorted(SAMPLES) if kind.startswith(("artifact.", "budget.", "content.", "guard.", "policy."))
    ]
    write_log(tmp_path, [SAMPLES[kind] for kind in kinds])
    result = run(tmp_path, "--type", "all")
    assert result.exit_code == 0
    shown = [line.split("  ")[1:3] for line in result.stdout.splitlines()]
    expected = ["log.open", *kinds, "log.close"]
    assert shown == [[f"{LOG}/{seq}", kind] for seq, kind in enumerate(expected)]


def test_only_what_verifies_is_shown_and_the_break_is_named(logs):
    path = logs / segment_name(OTHER_LOG, 0)
    path.write_bytes(path.read_bytes().replace(b'"req":"r2"', b'"req":"r9"'))
    result = run(logs, "--jsonl")
    assert result.exit_code == 1
    assert [json.loads(line)["req"] for line in result.stdout.splitlines()] == ["r1", "r3"]
    assert f"{OTHER_LOG}: broken, 3 records verified" in result.stderr
    assert "line 4 (record 3)" in result.stderr


def test_the_last_record_that_nothing_confirms_is_pointed_out_when_it_is_shown(tmp_path):
    write_log(tmp_path, [refusal(req="r1"), refusal(req="r2")], close=False)
    result = run(tmp_path)
    assert result.exit_code == 0
    assert f"{LOG}: warning: record 2 is the last one" in result.stderr
    assert "warning" not in run(tmp_path, "--request", "r1").stderr
    write_log(tmp_path, [refusal(req="r1"), refusal(req="r2")])
    assert run(tmp_path).stderr == ""


def test_a_checkpoint_confirms_the_last_record(tmp_path):
    with AuditLog.open(tmp_path / "logs", content="none") as log:
        log.record(refusal(req="r1"))
        log.checkpoint()
        copy = tmp_path / "copy"
        copy.mkdir()
        segment, notes = (log.directory / name for name in (segment_name(log.log_id, 0), checkpoints_name(log.log_id)))
        (copy / notes.name).write_bytes(notes.read_bytes())
        # Without the record of type checkpoint, as when the process is killed before it is written.
        (copy / segment.name).write_bytes(content(segment.read_bytes().splitlines()[:2]))
    result = run(copy)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "r1" in result.stdout
    (copy / notes.name).write_bytes(b"")
    assert "confirmed neither" in run(copy).stderr


def test_a_decision_before_its_answer_is_marked(tmp_path):
    write_log(tmp_path, [decision(content=sized_content(answer=None))])
    assert "guide → guide, before the answer" in " ".join(run(tmp_path).stdout.split())


@pytest.mark.parametrize("form", [[], ["--json"], ["--jsonl"], ["--type", "all"]])
def test_a_hostile_line_reaches_no_terminal(tmp_path, form):
    hostile = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\x7f\n[red]"
    bodies = [
        {**fields(decision(req="r1")), "cause": hostile},
        {**fields(decision(req="r2")), "readings": hostile, hostile: hostile},
        {"type": "guard.decision", "readings": None},
        {"type": hostile, "req": hostile},
        decision(req="r3"),
    ]
    write_log(tmp_path, bodies)
    result = run(tmp_path, *form)
    assert result.exit_code == 1
    assert "do not fit the schema of their type: " in result.stderr
    assert [one for one in result.output if not one.isprintable() and one != "\n"] == []
    assert "r3" in result.stdout


def test_a_record_that_is_nested_too_deeply_is_named(tmp_path):
    first, second = chained([OPEN, {**fields(decision()), "readings": 0}])
    second = second.replace(b'"readings":0', b'"readings":' + b"[" * 1020 + b"]" * 1020)
    (tmp_path / segment_name(LOG, 0)).write_bytes(content([first, second]))
    expected = {"log": LOG, "seq": 1, "unprintable": "it is nested too deeply"}
    found = run(tmp_path, "--json")
    assert (found.exit_code, json.loads(found.stdout)) == (1, [expected])
    found = run(tmp_path, "--jsonl")
    assert (found.exit_code, json.loads(found.stdout)) == (1, expected)


def test_what_rests_on_no_pinned_checkpoint_is_said(tmp_path):
    events(forged := Builder(), 4, every=100)
    forged.built.write(tmp_path)
    assert "no pinned checkpoint covers" not in run(tmp_path, "--type", "all").stderr
    result = run(tmp_path, "--type", "all", "--key", PINNED.text)
    assert result.exit_code == 0
    assert "records that no pinned checkpoint covers: 5, in 1 of 1 logs" in result.stderr
    forged.close().write(tmp_path)
    assert run(tmp_path, "--type", "all", "--key", PINNED.text).stderr == ""
