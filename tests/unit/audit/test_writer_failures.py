"""What a log does when a checkpoint, a rotation or a removed directory stops it, and how it goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import structlog
from tests.audit_directories import records_in, sizes, sound, types_in
from tests.audit_writing import OTHER, SIGNER, Flaky, settings, wait_for

from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import Durability, Rotation
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import CallableSigner


def test_a_copy_that_is_down_stops_the_log_before_the_record_and_gets_the_same_note_later(tmp_path, allow):
    copy = Flaky()
    log = AuditLog.open(tmp_path, content="none", checkpoints=settings(every_records=2, copies=(copy,)))
    log.record(allow)
    for _ in range(2):
        with pytest.raises(AuditSinkError, match="down"):
            log.record(allow)
    assert types_in(tmp_path, log.log_id) == ["log.open", "guard.decision"]
    copy.down = False
    assert log.record(allow).seq == 3
    assert len(set(copy.notes)) == 1
    log.close()
    assert sizes(tmp_path, log.log_id) == [2, 4, 5]
    sound(tmp_path)


def test_a_signer_that_fails_stops_the_log_until_it_signs_again(tmp_path, allow):
    down = [True]

    def sign(message):
        if down[0]:
            raise ConnectionError("token of the service")
        return SIGNER.sign(message)

    signer = CallableSigner(SIGNER.public, sign)
    log = AuditLog.open(tmp_path, content="none", checkpoints=settings(signer=signer, every_records=1))
    with pytest.raises(AuditSinkError, match="could not be signed") as caught:
        log.record(allow)
    assert "token" not in str(caught.value)
    down[0] = False
    log.record(allow)
    log.close()
    sound(tmp_path)


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_full_disk_at_a_checkpoint_stops_the_log_until_there_is_space(tmp_path, allow, monkeypatch, call):
    log = AuditLog.open(tmp_path, content="none", checkpoints=settings(every_records=2))
    log.record(allow)
    target = log._writer._anchor._file._descriptor
    real = getattr(os, call)

    def full(descriptor, *rest):
        if descriptor == target:
            if call == "write":
                real(descriptor, rest[0][:50])
            raise OSError(28, "No space left on device")
        return real(descriptor, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for _ in range(2):
            with pytest.raises(AuditSinkError, match="No space left"):
                log.record(allow)
    log.record(allow)
    log.close()
    assert sizes(tmp_path, log.log_id) == [2, 4, 5]
    sound(tmp_path)


FULL = """
import resource, sys
from pathlib import Path
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings, Rotation
from steerguard.errors import AuditSinkError
log = AuditLog.open(
    Path(sys.argv[1]), content="none", rotation=Rotation(max_bytes=4000), checkpoints=CheckpointSettings(every_records=2)
)
event = bypass_event("unguided", "test")
for limit in range(1, 4000, 61):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        kept = [log.record(event).leaf]
    except AuditSinkError as error:
        kept = []
        assert "File too large" in str(error) or "bytes written" in str(error), error
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept.append(log.record(event).leaf)
    print(*kept, sep="\\n")
log.close()
"""


def test_wherever_the_system_stops_a_write_the_log_goes_on_when_it_may(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], check=True, env=environment, capture_output=True, text=True, timeout=60
    )
    (report,) = sound(tmp_path).logs
    assert report.closed
    records = records_in(tmp_path, report.log)
    kept = done.stdout.split()
    assert set(kept) <= set(records)
    assert sum(record["type"] == "guard.bypass" for record in records.values()) == len(kept)


def test_a_full_disk_at_a_rotation_stops_the_log_until_there_is_space(tmp_path, allow, monkeypatch):
    log = AuditLog.open(tmp_path, content="none", rotation=Rotation(max_bytes=1000))
    log.record(allow)
    real = os.open

    def full(path, flags, *rest, **named):
        if flags & os.O_CREAT and str(path).endswith(".jsonl"):
            raise OSError(28, "No space left on device")
        return real(path, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        for _ in range(2):
            with pytest.raises(AuditSinkError, match="No space left"):
                log.record(allow)
    assert log.record(allow).seq == 3
    log.close()
    sound(tmp_path)


def test_a_removed_directory_is_noticed(tmp_path, allow, refuse):
    folder = tmp_path / "logs"
    log = AuditLog.open(folder, content="none", durability=Durability(seconds=0.02))
    shutil.rmtree(folder)
    with structlog.testing.capture_logs() as said:
        log.record(allow)
        wait_for(lambda: said)
    assert "removed" in said[0]["found"]
    with pytest.raises(AuditSinkError):
        log.record(allow)
    log.close()
    log = AuditLog.open(folder, content="none")
    shutil.rmtree(folder)
    with pytest.raises(AuditSinkError, match="removed"):
        log.record(refuse)
    log.close()


def test_a_new_checkpoint_key_stays_when_its_first_checkpoint_must_wait(tmp_path, allow):
    copy = Flaky()
    log = AuditLog.open(tmp_path, content="none", checkpoints=settings(copies=(copy,)))
    with pytest.raises(AuditSinkError, match="down"):
        log.rotate_checkpoint_key(OTHER)
    assert log.checkpoint_key == NoteKey("steerguard-audit", OTHER.public)
    with pytest.raises(AuditSinkError, match="down"):
        log.record(allow)
    copy.down = False
    log.record(allow)
    log.close()
    sound(tmp_path)


def test_a_log_that_cannot_be_begun_leaves_no_files(tmp_path, monkeypatch):
    def full(_descriptor, _content):
        raise OSError(28, "No space left on device")

    AuditLog.open(tmp_path, content="none").close()
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(AuditSinkError, match="No space left"):
            AuditLog.open(tmp_path, content="none")
    assert sorted(tmp_path.iterdir()) == before
