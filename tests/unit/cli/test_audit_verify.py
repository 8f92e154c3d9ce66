from __future__ import annotations

import json
import os

import pytest
from tests.built_audit_logs import FOREIGN_KEY, PINNED, Builder, events, log_id, note_key
from typer.testing import CliRunner

from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.verify import FAULTS
from steerguard.cli.audit import app


@pytest.fixture
def built(tmp_path):
    events(builder := Builder(), 9, every=4)
    built = builder.close()
    built.write(tmp_path)
    return built


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["verify", *(str(one) for one in arguments)])
    return result.exit_code, result.output


def test_a_whole_log_is_ok_by_directory_and_by_file(tmp_path, built):
    code, output = run(tmp_path)
    assert code == 0
    assert output.splitlines() == [
        f"{built.log}: ok, 14 records verified, closed",
        "  5 checkpoints verified; all records lie under one of the log's own key, which is not pinned",
        "ok: 1 log, 14 records verified, nothing pinned",
    ]
    assert run(tmp_path / segment_name(built.log, 0)) == (code, output)
    assert run(tmp_path / checkpoints_name(built.log)) == (code, output)


def test_a_pinned_key_is_given_as_text_or_file(tmp_path, built):
    path = tmp_path / "checkpoint.vkey"
    path.write_text(PINNED.text + "\n")
    for key in (PINNED.text, path):
        code, output = run(tmp_path, "--key", key, "--anchored", "--strict")
        assert code == 0
        assert "all records lie under a pinned one" in output
    code, output = run(tmp_path, "--key", note_key(FOREIGN_KEY).text)
    assert code == 1
    assert "unpinned: the log is not signed by a pinned key" in output


def test_anchored_asks_for_a_pin_and_for_records_under_it(tmp_path, built):
    code, output = run(tmp_path, "--anchored")
    assert code == 3
    assert "pin the key" in output
    events(builder := Builder(1, previous=built.log), 5, every=3)
    builder.built.write(tmp_path)
    code, output = run(tmp_path, "--anchored", "--key", PINNED.text)
    assert code == 3
    assert "unanchored after that: " in output
    assert "no pinned checkpoint covers" in output
    assert run(tmp_path, "--key", PINNED.text)[0] == 0


def test_checkpoints_kept_elsewhere_show_a_log_that_was_cut_off(tmp_path, built):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / checkpoints_name(built.log)).write_bytes(b"".join(note for _, note in built.notes))
    assert run(tmp_path, "--checkpoint", kept, "--anchored")[0] == 0
    cut = built.notes[1][0]
    (tmp_path / segment_name(built.log, 0)).write_bytes(b"".join(line + b"\n" for line in built.lines[: cut + 1]))
    (tmp_path / checkpoints_name(built.log)).write_bytes(b"".join(note for _, note in built.notes[:2]))
    assert run(tmp_path)[0] == 0
    code, output = run(tmp_path, "--checkpoint", kept / checkpoints_name(built.log))
    assert code == 1
    assert f"missing: records {cut + 1} to 13" in output
    assert "truncated: a checkpoint covers more records than the log has" in output


def test_what_recovery_found_is_said_and_is_not_anchored(tmp_path):
    builder = Builder()
    events(builder, 7, every=3)
    builder.event()
    builder.event()
    fixed, last = builder.built.notes[-1][0], builder.seq - 1
    built = builder.recover(builder.built.log)
    built.write(tmp_path)
    found = last + 1 - fixed
    code, output = run(tmp_path, "--key", PINNED.text)
    assert code == 0
    assert f"records up to {fixed - 1} lie under a pinned one that was signed before recovery" in output
    assert f"unanchored after that: {found + 2} records ({found} as found)" in output
    assert f"warning: {found} records (seq {fixed} to {last}) had no checkpoint when the process died" in output
    code, output = run(tmp_path, "--key", PINNED.text, "--anchored")
    assert code == 3
    assert "not anchored: only recovery vouches for the records that are as found" in output
    code, output = run(tmp_path, "--key", PINNED.text, "--json")
    (log,) = json.loads(output)["logs"]
    assert (log["as_found"], log["anchored"], log["unanchored"]) == (found, fixed, found + 2)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / checkpoints_name(built.log)).write_bytes(built.notes[-1][1])
    code, output = run(tmp_path, "--key", PINNED.text, "--checkpoint", kept, "--anchored")
    assert (code, "all records lie under a pinned one" in output) == (0, True)
    assert f"{found} records (seq {fixed} to {last}) had no checkpoint" in output


def test_the_first_bad_line_is_named(tmp_path, built):
    path = tmp_path / segment_name(built.log, 0)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], lines[5].replace(b'"req":"r', b'"req":"q'), *lines[6:]]))
    code, output = run(tmp_path)
    assert code == 1
    assert output.splitlines()[:3] == [
        f"{built.log}: broken, 5 records verified",
        f"  record 5 in {path.name}, line 6",
        f"  chain: {FAULTS['chain']}",
    ]
    assert output.splitlines()[-1].startswith("broken: 1 log, 5 records verified, 1 broken")


def test_a_missing_log_and_a_pruned_one_are_said(tmp_path, built):
    keeper = Builder(1, previous=built.log)
    keeper.prune(built, (0, 0), whole=True)
    keeper.close().write(tmp_path)
    (tmp_path / segment_name(built.log, 0)).unlink()
    code, output = run(tmp_path)
    assert code == 0
    assert f"{built.log}: pruned" in output
    assert "segments 0 to 0, records 0 to 13" in output
    Builder(1, previous=built.log).close().write(tmp_path)
    code, output = run(tmp_path)
    assert code == 1
    assert f"{built.log}: missing" in output
    assert "1 missing" in output


def test_json_holds_everything_and_a_version(tmp_path, built):
    path = tmp_path / segment_name(built.log, 0)
    path.write_bytes(path.read_bytes() + b"{}\n")
    code, output = run(tmp_path, "--json", "--key", PINNED.text)
    document = json.loads(output)
    assert code == 1
    assert (document["version"], document["status"], document["anchored"]) == (1, "broken", False)
    (log,) = document["logs"]
    assert (log["status"], log["records"], log["first_bad"]["fault"]) == ("broken", 13, "schema")
    assert "schema" in log["first_bad"]["reason"]
    assert log["keys"] == [{"name": PINNED.name, "hash": PINNED.hash, "pinned": True}]
    assert set(document) == {"version", "status", "anchored", "logs", "missing", "pruned", "warnings"}


def test_what_cannot_be_checked_exits_with_2(tmp_path):
    assert run(tmp_path)[0] == 2
    code, output = run(tmp_path / "absent.jsonl")
    assert code == 2
    assert "not a file of an audit log" in output
    os.mkfifo(tmp_path / segment_name(log_id(0), 0))
    (tmp_path / checkpoints_name(log_id(0))).write_bytes(b"")
    code, output = run(tmp_path)
    assert code == 2
    assert "no regular file" in output
    Builder(1).close().write(tmp_path)
    assert run(tmp_path)[0] == 1


@pytest.mark.parametrize("option", [("--key", "nonsense"), ("--checkpoint", "absent")])
def test_a_pin_that_cannot_be_read_exits_with_2(tmp_path, built, option):
    code, output = run(tmp_path, *option)
    assert (code, built.log in output) == (2, False)
    assert "next step" in output


def test_a_log_without_its_end_is_not_anchored_and_says_why(tmp_path, built):
    size, _ = built.notes[1]
    (tmp_path / segment_name(built.log, 0)).write_bytes(b"".join(line + b"\n" for line in built.lines[:size]))
    (tmp_path / checkpoints_name(built.log)).write_bytes(b"".join(note for _, note in built.notes[:2]))
    assert run(tmp_path, "--key", PINNED.text)[0] == 0
    code, output = run(tmp_path, "--key", PINNED.text, "--anchored")
    assert code == 3
    assert "not anchored: a log does not end with log.close" in output


def test_a_forged_record_of_pruning_is_pointed_out(tmp_path, built):
    for path in tmp_path.iterdir():
        path.unlink()
    Builder(1, previous=built.log).close().write(tmp_path)
    forger = Builder(2)
    forger.prune(built, (0, 0), whole=True)
    forger.built.write(tmp_path)
    code, output = run(tmp_path, "--key", PINNED.text)
    assert code == 0
    assert (
        f"warning: {built.log} is not there, and no checkpoint that counts covers the record of what was pruned"
        in output
    )
    assert run(tmp_path, "--key", PINNED.text, "--anchored")[0] == 3
