"""Recoveries that die themselves, are in each other's way, or find what they cannot recover."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import structlog
from tests.audit_directories import types_in
from tests.dead_audit_logs import finished, kill, last_segment, recover, recovered_in

from steerguard.audit.log import AuditLog
from steerguard.audit.settings import CheckpointSettings
from steerguard.errors import AuditSinkError

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
    finished(tmp_path)
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
    finished(tmp_path)


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
    finished(tmp_path)


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
    finished(tmp_path)
    assert all(len(recovered_in(tmp_path, log)) == 1 for log in logs)


def log_id(folder):
    return max(path.name for path in folder.glob("*.checkpoints")).partition(".")[0]


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


@pytest.mark.parametrize(
    "change",
    [{"type": None}, {"t": None}, {"t": "x"}, {"t": "2026-01-01T00:00:00"}, {"mono": None}, {"mono": "x"}, {"type": 1}],
    ids=str,
)
def test_a_last_record_without_its_envelope_does_not_keep_a_new_log_from_being_opened(tmp_path, dead, change):
    log = dead(records=3, every=100)
    path = tmp_path / f"{log}.000000.jsonl"
    *before, last = path.read_bytes().splitlines(keepends=True)
    record = {name: value for name, value in {**json.loads(last), **change}.items() if value is not None}
    path.write_bytes(b"".join(before) + json.dumps(record).encode() + b"\n")
    with structlog.testing.capture_logs() as said:
        AuditLog.open(tmp_path, content="none").close()
    if "type" in change:
        assert types_in(tmp_path, log)[-2:] == ["log.recovered", "log.close"]
    else:
        assert [one["log"] for one in said] == [log]


@pytest.mark.parametrize("name", ["checkpoints", "000000.jsonl"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, dead, name):
    log = dead(records=3)
    path = tmp_path / f"{log}.{name}"
    path.unlink()
    os.mkfifo(path)
    with structlog.testing.capture_logs() as said:
        AuditLog.open(tmp_path, content="none").close()
    assert [(one["log"], one["found"]) for one in said] == [(log, "no regular file")]
