"""Logs whose process died: what a new log in the directory makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import structlog
from tests.audit_directories import records_in, types_in

from steerguard.audit.evidence.checkpoint import TreeHead, parse_head, sign_head, split_notes, stored
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import SigningKey

OTHER = SigningKey(bytes([4]) * 32)


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("STEERGUARD_CHECKPOINT_KEY", raising=False)


@pytest.fixture
def dead(tmp_path):
    """Make a log of ten records whose process died; return its folder and id."""

    def make(*, max_bytes=10**9, signer=None, records=10, every=4):
        log = AuditLog.open(
            tmp_path,
            content="none",
            durability=Durability(mode="never"),
            rotation=Rotation(max_bytes=max_bytes),
            checkpoints=CheckpointSettings(every_records=every, signer=signer),
        )
        for number in range(records):
            log.record(bypass_event("unguided", f"number {number}"))
        return kill(log)

    return make


def kill(log):
    """Let go of a log's files as the system does when a process is killed; return its id."""
    name = log.log_id
    log._finalizer.detach()
    log._writer.abandon()
    log._writer = None
    return name


def log_id(folder):
    return max(path.name for path in folder.glob("*.checkpoints")).partition(".")[0]


def last_segment(folder, log):
    return max(folder.glob(f"{log}.*.jsonl"))


def recover(folder, **settings):
    """Open and close a log; return what it said."""
    with structlog.testing.capture_logs() as said:
        AuditLog.open(folder, content="none", **settings).close()
    return said


def sound(folder):
    report = verify_directory(folder, strict=True)
    assert report.status == "ok", report
    assert all(one.closed for one in report.logs), report
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in folder.glob("2*.*"))
    return {one.log: one for one in report.logs}


def recovered_in(folder, log):
    return [record for record in records_in(folder, log).values() if record["type"] == "log.recovered"]


def sizes(folder, log):
    return [parse_head(note).head.size for note in split_notes((folder / f"{log}.checkpoints").read_bytes())]


def test_a_dead_log_is_finished_and_says_by_whom(tmp_path, dead):
    log = dead()
    before = last_segment(tmp_path, log).read_bytes()
    with AuditLog.open(tmp_path, content="none") as own:
        pass
    assert last_segment(tmp_path, log).read_bytes().startswith(before)
    assert types_in(tmp_path, log)[-2:] == ["log.recovered", "log.close"]
    (recovered,) = recovered_in(tmp_path, log)
    assert (recovered["by"], recovered["torn_bytes"], recovered["torn_file"]) == (own.log_id, 0, None)
    report = sound(tmp_path)[log]
    assert (report.recovered, report.unanchored) == (True, 0)
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
    sound(tmp_path)


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
    sound(tmp_path)


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
    sound(tmp_path)


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
    sound(tmp_path)


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
    sound(tmp_path)


def test_another_key_is_introduced_before_it_signs(tmp_path, dead):
    log = dead(signer=OTHER)
    recover(tmp_path)
    assert types_in(tmp_path, log)[-3:] == ["log.key_rotate", "log.recovered", "log.close"]
    sound(tmp_path)


def test_a_key_that_an_earlier_segment_introduced_is_known_from_the_notes(tmp_path, dead):
    log = dead(signer=OTHER, max_bytes=3000)
    recover(tmp_path, checkpoints=CheckpointSettings(signer=OTHER))
    assert "log.key_rotate" not in types_in(tmp_path, log)
    sound(tmp_path)


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
    sound(tmp_path)
    assert types_in(tmp_path, log.log_id)[-1] == "log.close"
    if torn:
        assert (tmp_path / f"{log.log_id}.torn-1").read_bytes().endswith(torn)


def test_a_log_in_use_is_left_alone(tmp_path):
    with AuditLog.open(tmp_path, content="none") as first:
        before = first.path.read_bytes()
        assert recover(tmp_path) == []
        assert first.path.read_bytes() == before
        first.record(bypass_event("unguided", "test"))
    sound(tmp_path)


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


POINTS = ["torn", "cut", "record", "close", "note"]


@pytest.mark.parametrize("point", POINTS)
def test_a_recovery_that_dies_itself_is_continued_by_the_next(tmp_path, dead, point):
    log = dead()
    path = last_segment(tmp_path, log)
    torn = b'{"torn'
    path.write_bytes(path.read_bytes() + torn)
    script = """
import os, sys
from pathlib import Path
from steerguard.audit.writing import last_records
from steerguard.audit import sinks
from steerguard.audit.writing import writer
from steerguard.audit.log import AuditLog
point = sys.argv[2]
def die(*_arguments, **_named):
    os.kill(os.getpid(), 9)
def before(owner, name):
    setattr(owner, name, die)
real = writer.ChainWriter.record
def dying(self, body):
    if body.event_type == "log.recovered" and point == "cut":
        die()
    receipt = real(self, body)
    if body.event_type == "log.recovered" and point == "record":
        die()
    return receipt
writer.ChainWriter.record = dying
if point == "torn":
    before(sinks.FileSink, "resume")
elif point in {"close", "note"}:
    signs = writer.ChainWriter._finish
    def finish(self):
        if point == "note":
            self._sign()
        die()
    writer.ChainWriter._finish = finish
AuditLog.open(Path(sys.argv[1]), content="none")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script, tmp_path, point], check=False, env=environment, timeout=60)
    assert done.returncode == -9
    assert recover(tmp_path) == []
    sound(tmp_path)
    (recovered,) = recovered_in(tmp_path, log)
    assert (recovered["torn_bytes"], recovered["torn_file"]) == (len(torn), f"{log}.torn-1")
    assert [one.name for one in tmp_path.glob("*.torn-*")] == [f"{log}.torn-1"]
    assert types_in(tmp_path, log).count("log.close") == 1


def test_a_full_disk_leaves_a_dead_log_for_the_next_process_and_opens_the_new_one(tmp_path, dead, monkeypatch):
    log = dead()
    path = last_segment(tmp_path, log)
    path.write_bytes(path.read_bytes() + b"torn")
    before = path.read_bytes()
    real = os.open

    def full(name, flags, *rest, **named):
        if "torn" in str(name):
            raise OSError(28, "No space left on device")
        return real(name, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        (said,) = recover(tmp_path)
    assert (said["event"], said["found"]) == ("audit_log_not_recovered", "No space left on device")
    assert path.read_bytes() == before
    assert recover(tmp_path) == []
    sound(tmp_path)


class Down:
    def publish(self, log, note):
        raise AuditSinkError("The other place is down.")


def test_a_copy_that_is_down_does_not_keep_a_new_log_from_being_opened(tmp_path, dead):
    log = dead()
    with structlog.testing.capture_logs() as said:
        own = AuditLog.open(tmp_path, content="none", checkpoints=CheckpointSettings(copies=(Down(),)))
    assert [one["log"] for one in said] == [log]
    with pytest.raises(AuditSinkError, match="down"):
        own.close()
    assert recover(tmp_path) == []
    sound(tmp_path)


def test_files_that_vanish_meanwhile_are_no_error(tmp_path, dead, monkeypatch):
    log = dead()
    from steerguard.audit.writing import recovery

    real = recovery.logs_in

    def vanish(folder):
        found = real(folder)
        for path in tmp_path.glob(f"{log}.*"):
            path.unlink()
        return found

    monkeypatch.setattr(recovery, "logs_in", vanish)
    assert recover(tmp_path) == []


def test_processes_that_recover_at_once_do_it_once(tmp_path):
    open_logs = [AuditLog.open(tmp_path, content="none") for _ in range(6)]
    logs = [kill(log) for log in open_logs]
    script = (
        "import sys; from pathlib import Path; from steerguard.audit.log import AuditLog\n"
        "AuditLog.open(Path(sys.argv[1]), content='none').close()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", script, tmp_path], env=environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in running:
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, b"")
    sound(tmp_path)
    assert all(len(recovered_in(tmp_path, log)) == 1 for log in logs)


FORKED = """
import os, sys, time
from pathlib import Path
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
log = AuditLog.open(Path(sys.argv[1]), content="none")
log.record(bypass_event("unguided", "parent"))
if os.fork() == 0:
    os.close(1)
    time.sleep(0.5)
    log.record(bypass_event("unguided", "child"))
    sys.exit(0)
os.kill(os.getpid(), 9)
"""


def test_the_lock_of_a_dead_parent_is_free_while_its_child_lives(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, tmp_path], check=False, env=environment, stdout=subprocess.PIPE, timeout=60
    )
    assert done.returncode == -9
    log = log_id(tmp_path)
    recover(tmp_path)
    assert types_in(tmp_path, log)[-2:] == ["log.recovered", "log.close"]
