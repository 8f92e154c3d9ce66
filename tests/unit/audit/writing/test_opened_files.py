"""The files of a new log: which log it names as the one before, and what a failure leaves."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from steerguard.audit.evidence.checkpoint_file import CheckpointFile
from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.sinks import FileSink
from steerguard.audit.verify import verify_directory
from steerguard.audit.writing.opened_files import OpenedFiles, newest_log
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import SigningKey

SETTINGS = CheckpointSettings(signer=SigningKey(bytes([3]) * 32))
LATER = "29991231T000000Z-0123456789abcdef"


def opened(folder):
    return AuditLog.open(folder, content="none", checkpoints=SETTINGS)


def open_files():
    return [number for number in range(256) if Path(f"/proc/self/fd/{number}").exists()]


def test_a_log_that_another_process_gives_up_while_it_opens_is_not_missed_later(tmp_path):
    with opened(tmp_path) as before:
        files = OpenedFiles.create(tmp_path, LATER)
        assert newest_log(tmp_path) == before.log_id
        with opened(tmp_path):
            # Its first record could not be written.
            files.discard()
    report = verify_directory(tmp_path, strict=True)
    assert (report.status, report.missing) == ("ok", ())


def test_a_log_that_is_interrupted_behind_its_first_record_and_is_named_by_then_is_finished(tmp_path, monkeypatch):
    others = []

    def interrupt(_descriptor):
        monkeypatch.undo()
        others.append(opened(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fdatasync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path)
    (other,) = others
    other.close()
    with opened(tmp_path):
        pass
    report = verify_directory(tmp_path, strict=True)
    assert (report.status, report.missing) == ("ok", ())
    assert [log.recovered for log in report.logs].count(True) == 1


def test_a_segment_that_cannot_be_removed_keeps_its_file_of_checkpoints_and_is_finished(tmp_path, monkeypatch):
    files = OpenedFiles.create(tmp_path, LATER)

    unlink = Path.unlink

    def fail_for_segments(path, *, missing_ok=False):
        if path.suffix == ".jsonl":
            raise OSError(5, "Input/output error")
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail_for_segments)
        files.discard()
    with opened(tmp_path):
        pass
    report = verify_directory(tmp_path, strict=True)
    assert (report.status, len(report.logs)) == ("ok", 2)


def test_a_first_record_that_fails_late_leaves_nothing_and_lets_no_checkpoint_in_its_place(tmp_path, monkeypatch):
    """The checkpoint is due by time when the write fails, and the background thread stands ready to write it."""
    write, discard, crashed, full = os.write, OpenedFiles.discard, [], []

    def slow_and_full(descriptor, content):
        if full and content.startswith(b"{"):
            # There is room again for the next one.
            full.clear()
            time.sleep(0.01)
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    def late(files):
        time.sleep(0.02)
        discard(files)

    monkeypatch.setattr(threading, "excepthook", crashed.append)
    monkeypatch.setattr(os, "write", slow_and_full)
    monkeypatch.setattr(OpenedFiles, "discard", late)
    settings = CheckpointSettings(signer=SETTINGS.signer, every_seconds=0.005)
    for _ in range(10):
        full.append(True)
        with pytest.raises(AuditSinkError, match="No space left on device"):
            AuditLog.open(tmp_path, content="none", checkpoints=settings)
    assert logs_in(tmp_path) == ()
    with opened(tmp_path):
        pass
    report = verify_directory(tmp_path, strict=True)
    assert (report.status, len(report.logs), crashed) == ("ok", 1, [])


def test_a_file_system_that_fails_on_closing_hides_neither_the_cause_nor_the_other_files(tmp_path, monkeypatch):
    write, close, closed = os.write, os.close, []

    def full(descriptor, content):
        if content.startswith(b"{"):
            raise OSError(28, "No space left on device")
        return write(descriptor, content)

    def fail(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        close(descriptor)
        closed.append(name)
        if name.endswith(".jsonl"):
            raise OSError(122, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        patch.setattr(os, "close", fail)
        with pytest.raises(AuditSinkError, match="No space left on device"):
            opened(tmp_path)
    assert logs_in(tmp_path) == ()
    assert any(".checkpoints" in name for name in closed)


def test_a_log_whose_file_fails_on_closing_says_so_and_is_let_go(tmp_path, monkeypatch):
    close = os.close

    def fail(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        close(descriptor)
        if name.endswith(".jsonl"):
            raise OSError(122, "Disk quota exceeded")

    log, before = opened(tmp_path), open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(AuditSinkError, match="Disk quota exceeded"):
            log.close()
    assert len(open_files()) == len(before) - 2
    with opened(tmp_path):
        pass
    assert verify_directory(tmp_path, strict=True).status == "ok"


def test_a_log_with_a_first_record_is_named_and_a_finished_one_too(tmp_path):
    assert newest_log(tmp_path) is None
    log = opened(tmp_path)
    assert newest_log(tmp_path) == log.log_id
    log.close()
    assert newest_log(tmp_path) == log.log_id
    log_file = tmp_path / f"{log.log_id}.000000.jsonl"
    log_file.unlink()
    assert newest_log(tmp_path) == log.log_id, "its checkpoints are left"


@pytest.mark.parametrize("make", [CheckpointFile.create, lambda folder, log: FileSink.create(folder / log)])
def test_a_name_that_cannot_be_made_durable_leaves_no_open_file(tmp_path, monkeypatch, make):
    def fail(_descriptor):
        raise OSError(5, "Input/output error")

    before = open_files()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(AuditSinkError, match="Input/output error"):
            make(tmp_path, LATER)
    assert open_files() == before


def test_a_file_of_checkpoints_that_cannot_be_made_durable_leaves_no_name(tmp_path, monkeypatch):
    def fail(_descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(AuditSinkError):
            CheckpointFile.create(tmp_path, LATER)
    assert list(tmp_path.iterdir()) == []
