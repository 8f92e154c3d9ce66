"""Logs whose process died: what a new log in the directory makes of them."""

from __future__ import annotations

import json

import pytest
from tests.audit_directories import types_in
from tests.audit_writing import OTHER
from tests.dead_audit_logs import finished, last_segment, recover, recovered_in

from steerguard.audit.evidence.checkpoint import TreeHead, parse_head, sign_head, split_notes, stored
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verify import verify_directory


def test_a_dead_log_is_finished_and_says_by_whom(tmp_path, dead):
    log = dead()
    before = last_segment(tmp_path, log).read_bytes()
    with AuditLog.open(tmp_path, content="none") as own:
        pass
    assert last_segment(tmp_path, log).read_bytes().startswith(before)
    assert types_in(tmp_path, log)[-2:] == ["log.recovered", "log.close"]
    (recovered,) = recovered_in(tmp_path, log)
    assert (recovered["by"], recovered["torn_bytes"], recovered["torn_file"]) == (own.log_id, 0, None)
    report = finished(tmp_path)[log]
    # Recovery vouches for what it found behind the last checkpoint of the dead process, and nothing else does.
    assert (report.recovered, report.as_found) == (True, report.size - 2 - report.anchored)
    assert 0 < report.as_found < report.anchored
    content = last_segment(tmp_path, log).read_bytes()
    assert recover(tmp_path) == []
    assert last_segment(tmp_path, log).read_bytes() == content


@pytest.mark.parametrize(
    "torn",
    [b'{"v":1,"type":"guard.de', b"\x00" * 5000, b'{"v":1}', b'{"v":1}\n', b"\n", b"\xff" * 10 + b"\n" + b"\x00" * 9],
    ids=["half a line", "zeros", "no newline", "no record", "empty line", "garbage and zeros"],
)
def test_bytes_behind_the_last_whole_line_are_moved_aside(tmp_path, dead, torn):
    log = dead()
    path = last_segment(tmp_path, log)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    recover(tmp_path)
    (recovered,) = recovered_in(tmp_path, log)
    assert (recovered["torn_bytes"], recovered["torn_file"]) == (len(torn), f"{log}.torn-1")
    assert (tmp_path / f"{log}.torn-1").read_bytes() == torn
    assert path.read_bytes().startswith(whole)
    finished(tmp_path)


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_checkpoint_that_was_written_in_part_is_moved_aside(tmp_path, dead, cut):
    log = dead()
    path = tmp_path / f"{log}.checkpoints"
    content = path.read_bytes()
    half = (stored(sign_head(TreeHead(log, 99, bytes(32)), [("steerguard-audit", OTHER)])))[:cut]
    path.write_bytes(content + half)
    recover(tmp_path)
    (recovered,) = recovered_in(tmp_path, log)
    assert (recovered["torn_bytes"], recovered["torn_note_bytes"]) == (0, cut)
    assert (tmp_path / f"{log}.torn-1").read_bytes() == half
    assert path.read_bytes().startswith(content)
    finished(tmp_path)


@pytest.mark.parametrize("state", ["no segment", "empty", "half a line"])
def test_a_log_whose_process_died_before_its_first_record_gets_one(tmp_path, dead, state):
    log = dead(records=0)
    path = last_segment(tmp_path, log)
    content = path.read_bytes()
    if state == "no segment":
        path.unlink()
    else:
        path.write_bytes(content[:40] if state == "half a line" else b"")
    recover(tmp_path)
    assert types_in(tmp_path, log) == ["log.open", "log.recovered", "log.close"]
    assert recovered_in(tmp_path, log)[0]["torn_bytes"] == (40 if state == "half a line" else 0)
    finished(tmp_path)


@pytest.mark.parametrize("left", [b"", b'{"v":1,"type":"log.ro'])
def test_a_segment_that_was_made_and_not_begun_is_begun(tmp_path, dead, left):
    log = dead(max_bytes=3000)
    path = last_segment(tmp_path, log)
    # The process died in the rotation: everything after log.rotate was never written.
    path.write_bytes(left)
    previous = sorted(tmp_path.glob(f"{log}.*.jsonl"))[-2]
    previous.chmod(0o600)
    first = json.loads(previous.read_bytes().splitlines()[-1])["seq"] + 1
    notes = tmp_path / f"{log}.checkpoints"
    kept = [note for note in split_notes(notes.read_bytes()) if parse_head(note).head.size <= first]
    notes.write_bytes(b"".join(note + b"\n" for note in kept))
    assert recover(tmp_path) == []
    begun = json.loads(path.read_bytes().splitlines()[0])
    assert (begun["type"], begun["size"]) == ("log.rotate", first)
    finished(tmp_path)


def test_only_the_last_segment_is_read_and_the_others_become_read_only(tmp_path, dead, monkeypatch):
    log = dead(max_bytes=2000)
    segments = sorted(tmp_path.glob(f"{log}.*.jsonl"))
    assert len(segments) > 2
    segments[-2].chmod(0o600)
    from steerguard.audit.writing import last_records

    read = []
    real = last_records.survived
    monkeypatch.setattr(last_records, "survived", lambda path, *rest: read.append(path.name) or real(path, *rest))
    recover(tmp_path)
    assert read == [segments[-1].name]
    finished(tmp_path)


def test_another_key_is_introduced_before_it_signs(tmp_path, dead):
    log = dead(signer=OTHER)
    recover(tmp_path)
    assert types_in(tmp_path, log)[-3:] == ["log.key_rotate", "log.recovered", "log.close"]
    finished(tmp_path)


def test_a_key_that_an_earlier_segment_introduced_is_known_from_the_notes(tmp_path, dead):
    log = dead(signer=OTHER, max_bytes=3000)
    recover(tmp_path, checkpoints=CheckpointSettings(signer=OTHER))
    assert "log.key_rotate" not in types_in(tmp_path, log)
    finished(tmp_path)


@pytest.mark.parametrize("signer", [None, OTHER])
@pytest.mark.parametrize("torn", [b"", b"\x00" * 20])
@pytest.mark.parametrize("noted", [True, False])
def test_a_log_that_died_behind_its_last_record_is_finished(tmp_path, noted, torn, signer):
    log = AuditLog.open(tmp_path, content="none")
    log.close()
    path, notes = last_segment(tmp_path, log.log_id), tmp_path / f"{log.log_id}.checkpoints"
    notes.chmod(0o600)
    if not noted:
        first = next(split_notes(notes.read_bytes()))
        notes.write_bytes(first + b"\n")
    if torn:
        path.chmod(0o600)
        path.write_bytes(path.read_bytes() + torn)
    assert recover(tmp_path, checkpoints=CheckpointSettings(signer=signer)) == []
    finished(tmp_path)
    assert types_in(tmp_path, log.log_id)[-1] == "log.close"
    if torn:
        assert (tmp_path / f"{log.log_id}.torn-1").read_bytes().endswith(torn)


def test_a_log_in_use_is_left_alone(tmp_path):
    with AuditLog.open(tmp_path, content="none") as first:
        before = first.path.read_bytes()
        assert recover(tmp_path) == []
        assert first.path.read_bytes() == before
        first.record(bypass_event("unguided", "test"))
    finished(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "swap", "ahead", "lost", "checkpoints", "rotate"])
def test_a_damaged_log_is_reported_and_left_as_it_is(tmp_path, dead, damage):
    log = dead(max_bytes=3000 if damage == "rotate" else 10**9)
    path, notes = last_segment(tmp_path, log), tmp_path / f"{log}.checkpoints"
    lines = path.read_bytes().splitlines(keepends=True)
    if damage == "flip":
        path.write_bytes(path.read_bytes().replace(b"number 5", b"number 6"))
    elif damage == "swap":
        path.write_bytes(b"".join([*lines[:-2], lines[-1], lines[-2]]))
    elif damage == "ahead":
        path.write_bytes(b"".join(lines[:3]))
    elif damage == "lost":
        path.unlink()
    elif damage == "checkpoints":
        notes.write_bytes(b"no\n\nnote\n\n" + notes.read_bytes())
    else:
        path.write_bytes(path.read_bytes().replace(b'"root":"', b'"root":"0', 1))
    before = {one.name: one.read_bytes() for one in tmp_path.glob(f"{log}.*")}
    (said,) = recover(tmp_path)
    assert (said["event"], said["log"], said["log_level"]) == ("audit_log_not_recovered", log, "warning")
    assert {one.name: one.read_bytes() for one in tmp_path.glob(f"{log}.*")} == before
    assert verify_directory(tmp_path).status == "broken"
