"""What a log does when writing fails, is interrupted or cannot be made durable."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import token_content
from steerguard.audit.records.record import decision_event
from steerguard.audit.sinks import FileSink, MemorySink
from steerguard.audit.verify import verify_bytes, verify_path
from steerguard.errors import AuditSinkError

PROMPT = "How do I pick a lock without anybody noticing?"


def report_of(path):
    return verify_path(path, strict=True).logs[0]


@pytest.fixture
def event(decide, context):
    return decision_event(decide(), context, content=token_content(None, [1, 2], [3]))


class FailingSink(MemorySink):
    """Raises what it is told to, before or after keeping the line."""

    def __init__(self):
        super().__init__()
        self.failure = None
        self.sync_failure = None

    def write(self, line):
        if self.failure is not None:
            raise self.failure
        super().write(line)

    def sync(self):
        if self.sync_failure is not None:
            raise self.sync_failure
        super().sync()


def test_a_failed_write_raises_and_the_chain_goes_on_where_it_was(event):
    sink = FailingSink()
    log = AuditLog.open(content="none", sink=sink)
    log.record(event)
    sink.failure = AuditSinkError("No space left on device")
    for _ in range(2):
        with pytest.raises(AuditSinkError, match="No space left"):
            log.record(event)
    sink.failure = None
    assert log.record(event).seq == 2
    assert verify_bytes(sink.content).status == "ok"


@pytest.mark.parametrize("failure", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_after_an_interruption_of_unknown_extent_the_log_refuses_everything(event, failure):
    sink = FailingSink()
    log = AuditLog.open(content="none", sink=sink)
    sink.failure = failure
    with pytest.raises((AuditSinkError, KeyboardInterrupt)):
        log.record(event)
    sink.failure = None
    with pytest.raises(AuditSinkError, match="interrupted"):
        log.record(event)
    log.close()
    assert len(sink.lines) == 1


@pytest.mark.parametrize("point", ["before", "part", "after", "adopted", "synced"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_to_a_file_keeps_the_whole_line_or_none_and_the_log_goes_on(
    tmp_path, monkeypatch, decide, context, point, interrupt
):
    log = AuditLog.open(tmp_path, content="none")
    refusal = decision_event(decide(applied="refuse"), context, content=token_content(None, [1], None))
    log.record(refusal)
    write, sync, adopt = os.write, os.fdatasync, FileSink.write

    def interrupted_write(descriptor, content):
        if point in {"part", "after"}:
            write(descriptor, content if point == "after" else content[:7])
        raise interrupt

    def interrupted_sync(descriptor):
        sync(descriptor)
        raise interrupt

    def interrupted_return(sink, line):
        adopt(sink, line)
        raise interrupt

    with monkeypatch.context() as patch:
        if point == "synced":
            patch.setattr(os, "fdatasync", interrupted_sync)
        elif point == "adopted":
            patch.setattr(FileSink, "write", interrupted_return)
        else:
            patch.setattr(os, "write", interrupted_write)
        with pytest.raises(interrupt):
            log.record(refusal)
    kept = point in {"after", "adopted", "synced"}
    assert report_of(log.path).records == 2 + kept
    assert report_of(log.path).first_bad is None
    assert log.record(refusal).seq == 2 + kept
    log.close()
    report = report_of(log.path)
    assert (report.status, report.records, report.closed) == ("ok", 4 + kept, True)


def test_an_interrupt_during_the_repair_is_repaired_before_the_next_record(tmp_path, monkeypatch, event):
    log = AuditLog.open(tmp_path, content="none")
    write = os.write

    def part(descriptor, content):
        write(descriptor, content[:7])
        raise KeyboardInterrupt

    def interrupted(_descriptor, _size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", part)
        patch.setattr(os, "ftruncate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.record(event)
    assert report_of(log.path).torn_bytes == 7
    assert log.record(event).seq == 1
    log.close()
    assert report_of(log.path).status == "ok"


def test_a_repair_that_fails_ends_the_log_and_says_how_to_go_on(tmp_path, monkeypatch, event):
    log = AuditLog.open(tmp_path, content="none")
    write = os.write

    def part(descriptor, content):
        write(descriptor, content[:7])
        raise KeyboardInterrupt

    def fail(_descriptor, _size):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", part)
        patch.setattr(os, "ftruncate", fail)
        with pytest.raises(KeyboardInterrupt):
            log.record(event)
    for _ in range(2):
        with pytest.raises(AuditSinkError, match="use_audit"):
            log.record(event)
    log.close()


def test_a_log_that_another_program_wrote_to_is_not_repaired(tmp_path, monkeypatch, event):
    log = AuditLog.open(tmp_path, content="none")

    def foreign(_descriptor, _content):
        with log.path.open("ab") as file:
            file.write(b"x" * 10_000)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", foreign)
        with pytest.raises(KeyboardInterrupt):
            log.record(event)
    with pytest.raises(AuditSinkError, match="use_audit"):
        log.record(event)
    log.close()
    assert report_of(log.path).torn_bytes == 10_000


def test_a_failed_sync_of_a_file_names_a_next_step_that_can_be_followed(tmp_path, monkeypatch, decide, context):
    log = AuditLog.open(tmp_path, content="none")
    refusal = decision_event(decide(applied="refuse"), context, content=token_content(None, [1], None))

    def fail(_descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(AuditSinkError, match=r"Call model\.guard\.use_audit\(AuditLog\.open\(\.\.\.\)\)"):
            log.record(refusal)
    with pytest.raises(AuditSinkError, match="use_audit"):
        log.record(refusal)
    log.close()


BROKEN_AT_EXIT = """
import os, sys
from pathlib import Path
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.errors import AuditSinkError
log = AuditLog.open(Path(sys.argv[1]), content="none")
os.dup2(os.open("/dev/full", os.O_WRONLY), log._writer._segments._row.current.descriptor)
if sys.argv[2] == "used":
    try:
        log.record(bypass_event("unguided", "test"))
    except AuditSinkError:
        pass
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("use", ["used", "unused"])
def test_a_log_that_cannot_be_closed_at_exit_is_reported_once_and_without_a_traceback(tmp_path, use):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_AT_EXIT, tmp_path, use],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.count("audit_log_not_closed") == 1


def test_a_record_that_may_not_be_durable_is_an_error_and_ends_the_log(decide, context):
    sink = FailingSink()
    log = AuditLog.open(content="none", sink=sink)
    sink.sync_failure = OSError(5, "Input/output error")
    refusal = decision_event(decide(applied="refuse"), context, content=token_content(None, [1], None))
    for _ in range(2):
        with pytest.raises(AuditSinkError):
            log.record(refusal)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_log_on_a_full_device_cannot_even_be_opened():
    sink = FileSink(os.open("/dev/full", os.O_WRONLY), where="/dev/full")
    with pytest.raises(AuditSinkError, match="No space left"):
        AuditLog.open(content="none", sink=sink)
