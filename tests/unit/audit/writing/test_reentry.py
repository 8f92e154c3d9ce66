"""Code that runs in the middle of a record, in its thread: signal handlers, finalizers, copies and sinks."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from steerguard.audit.copies import CallableCopy, DirectoryCopy
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.sinks import MemorySink
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditError, AuditSinkError
from steerguard.signing.keys import SigningKey

SIGNER = SigningKey(bytes([3]) * 32)
EVENT = bypass_event("unguided", "test")


def sound(folder):
    report = verify_directory(folder, strict=True)
    assert report.status == "ok", report
    return report


def opened(folder, **changes):
    return AuditLog.open(folder, content="none", checkpoints=CheckpointSettings(signer=SIGNER, **changes))


@pytest.fixture
def no_hang():
    """Fail after ten seconds instead of waiting for ever."""

    def give_up(*_arguments):
        pytest.fail("the log waits for its own thread")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("call", ["record", "checkpoint", "rotate", "close"])
def test_a_signal_handler_that_comes_back_to_the_log_is_refused_and_the_log_goes_on(tmp_path, monkeypatch, call):
    log = opened(tmp_path)
    write = os.write
    calls = {
        "record": lambda: log.record(EVENT),
        "checkpoint": log.checkpoint,
        "rotate": log.rotate,
        "close": log.close,
    }
    before = signal.signal(signal.SIGUSR1, lambda *_arguments: calls[call]())

    def interrupted(descriptor, content):
        written = write(descriptor, content)
        signal.raise_signal(signal.SIGUSR1)
        return written

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            with pytest.raises(AuditError, match="just working for"):
                log.record(EVENT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert log.record(EVENT).seq == 2, "the line was written as a whole, and is kept"
    log.close()
    assert sound(tmp_path).logs[0].closed


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("call", ["seal", "close"])
def test_a_signal_handler_that_comes_back_while_content_is_sealed_is_refused(tmp_path, monkeypatch, call):
    sealing = SealingKey.of_secret(bytes(range(32)))
    log = AuditLog.open(tmp_path, content="encrypted", sealing=sealing, checkpoints=CheckpointSettings(signer=SIGNER))
    pwrite = os.pwrite
    calls = {"seal": lambda: log.seal(b"other", req="r2", row=0), "close": log.close}
    before = signal.signal(signal.SIGUSR1, lambda *_arguments: calls[call]())

    def interrupted(descriptor, content, offset):
        written = pwrite(descriptor, content, offset)
        signal.raise_signal(signal.SIGUSR1)
        return written

    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", interrupted)
            with pytest.raises(AuditError, match="just working for"):
                log.seal(b"content", req="r1", row=0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    log.close()
    with AuditLog.open(tmp_path, content="none", checkpoints=CheckpointSettings(signer=SIGNER)):
        pass
    sound(tmp_path)


@pytest.mark.usefixtures("no_hang")
def test_a_copy_that_records_in_its_own_log_is_an_error_and_no_deadlock(tmp_path):
    logs = []
    copy = CallableCopy(lambda _log, _note: [log.record(EVENT) for log in logs])
    with opened(tmp_path, copies=(copy,)) as log:
        logs.append(log)
        with pytest.raises(AuditSinkError, match="second place"):
            log.checkpoint()
        logs.clear()
        log.record(EVENT)
    sound(tmp_path)


@pytest.mark.usefixtures("no_hang")
def test_a_sink_that_records_in_its_own_log_is_an_error_and_no_deadlock():
    class Noting(MemorySink):
        log = None

        def write(self, line):
            super().write(line)
            if self.log is not None:
                self.log.record(EVENT)

    sink = Noting()
    log = AuditLog.open(sink=sink, content="none")
    sink.log = log
    with pytest.raises(AuditSinkError, match="found: AuditError"):
        log.record(EVENT)
    with pytest.raises(AuditSinkError, match="end of the log is unknown"):
        log.record(EVENT)
    log.close()


def test_another_thread_waits_for_its_turn(tmp_path, monkeypatch):
    with opened(tmp_path) as log:
        inside, go_on, write = threading.Event(), threading.Event(), os.write

        def slow(descriptor, content):
            inside.set()
            assert go_on.wait(10)
            return write(descriptor, content)

        receipts = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", slow)
            threads = [threading.Thread(target=lambda: receipts.append(log.record(EVENT))) for _ in range(4)]
            for thread in threads:
                thread.start()
            assert inside.wait(10)
            go_on.set()
            for thread in threads:
                thread.join(10)
        assert sorted(receipt.seq for receipt in receipts) == [1, 2, 3, 4]


class Breaking:
    """Raises an error before the n-th line of the code that writes and syncs a line, as a signal handler can."""

    def __init__(self, at, error):
        self.left, self.error = at, error

    def __call__(self, frame, kind, _argument):
        name = frame.f_code.co_filename
        if not name.endswith(("audit/sinks.py", "writing/line_chain.py", "writing/segments.py")):
            return self if name.endswith(("audit/log.py", "writing/writer.py")) else None
        if kind == "line":
            self.left -= 1
            if self.left == 0:
                raise self.error
        return self


@pytest.mark.parametrize(
    "error",
    [AuditSinkError("The audit log cannot take a record.", found="the log is closed"), RuntimeError("a handler's own")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_a_signal_handler_that_breaks_into_a_record_leaves_the_chain_whole(tmp_path, error):
    """A handler that records in another log, which is closed, raises an error of the audit log's own kind."""
    for at in range(1, 100):
        breaking, before = Breaking(at, error), sys.gettrace()
        log = opened(tmp_path)
        sys.settrace(breaking)
        try:
            with suppress(AuditSinkError, RuntimeError):
                log.record(EVENT)
        finally:
            sys.settrace(before)
        # It goes on, or refuses everything: then the next log of the directory finishes it.
        with suppress(AuditSinkError):
            log.record(EVENT)
        log.close()
        if breaking.left > 0:
            break
    else:
        pytest.fail("a record has more lines than this")
    assert at > 20
    opened(tmp_path).close()
    sound(tmp_path)


@pytest.mark.usefixtures("no_hang")
def test_a_log_that_is_collected_while_another_writes_to_the_same_copy_is_closed(tmp_path, monkeypatch):
    copy = DirectoryCopy(tmp_path / "copy")
    folder = tmp_path / "logs"
    with opened(folder, copies=(copy,)) as log:
        garbage = [opened(folder, copies=(copy,))]
        garbage.append(garbage)
        collected, sync = [], os.fdatasync

        def collecting(descriptor):
            if "copy" in str(Path(f"/proc/self/fd/{descriptor}").readlink()) and not collected:
                collected.append(gc.collect())
            sync(descriptor)

        del garbage
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", collecting)
            log.checkpoint()
        assert collected
    assert [one.closed for one in sound(folder).logs] == [True, True]
