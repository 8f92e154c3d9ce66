"""What the background thread of a log does, and when it ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest
import structlog
from tests.audit_directories import records_in, sizes, sound, types_in
from tests.audit_writing import NEVER, Flaky, settings, wait_for

from steerguard.audit.copies import CallableCopy
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import Durability
from steerguard.audit.sinks import MemorySink
from steerguard.errors import AuditSinkError


def test_the_background_thread_syncs_within_the_interval_and_nobody_waits(tmp_path, allow, syncs):
    with AuditLog.open(tmp_path, content="none", durability=Durability(seconds=0.05)) as log:
        syncs.clear()
        start = time.monotonic()
        log.record(allow)
        assert not syncs
        wait_for(lambda: syncs)
        assert time.monotonic() - start >= 0.05
        assert syncs[0] is not threading.current_thread()
        assert syncs[0].daemon
        log.record(allow)
        wait_for(lambda: len(syncs) == 2)
        time.sleep(0.15)
        assert len(syncs) == 2, "nothing was written, so nothing is to be synced"


def test_a_slow_sync_in_the_background_holds_up_no_record(tmp_path, allow, monkeypatch):
    begun, go_on, sync = threading.Event(), threading.Event(), os.fdatasync
    main = threading.current_thread()

    def slow(descriptor):
        if threading.current_thread() is not main:
            begun.set()
            go_on.wait(10)
        sync(descriptor)

    with AuditLog.open(tmp_path, content="none", durability=Durability(seconds=0.01)) as log:
        monkeypatch.setattr(os, "fdatasync", slow)
        log.record(allow)
        assert begun.wait(5)
        for _ in range(10):
            log.record(allow)
        go_on.set()
    assert len(records_in(tmp_path, log.log_id)) == 13


def test_a_failed_sync_in_the_background_is_raised_by_the_next_record(tmp_path, allow, monkeypatch):
    log = AuditLog.open(tmp_path, content="none", durability=Durability(seconds=0.01))

    def failing(_descriptor):
        raise OSError(5, "Input/output error")

    with structlog.testing.capture_logs() as said, monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        log.record(allow)
        wait_for(lambda: said)
    assert said[0]["event"] == "audit_log_not_kept"
    with pytest.raises(AuditSinkError, match="sync failed"):
        log.record(allow)
    log.close()


def test_without_a_thread_every_record_is_synced_at_once(tmp_path, allow, syncs, monkeypatch):
    def no_thread(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with AuditLog.open(tmp_path, content="none") as log:
        syncs.clear()
        log.record(allow)
        log.record(allow)
        assert len(syncs) == 2


def test_a_checkpoint_comes_by_time_without_traffic_and_only_one(tmp_path, allow):
    with AuditLog.open(tmp_path, content="none", checkpoints=settings(every_seconds=0.05)) as log:
        log.record(allow)
        wait_for(lambda: sizes(tmp_path, log.log_id))
        time.sleep(0.2)
        assert sizes(tmp_path, log.log_id) == [2]
    assert types_in(tmp_path, log.log_id) == ["log.open", "guard.decision", "checkpoint", "log.close"]
    sound(tmp_path)


def test_the_thread_ends_with_the_log_and_does_not_keep_it(tmp_path, allow):
    def keepers():
        return [one for one in threading.enumerate() if one.name.startswith("steerguard-audit-")]

    before = len(keepers())
    log = AuditLog.open(tmp_path, content="none")
    log.record(allow)
    assert len(keepers()) == before + 1
    log.close()
    assert len(keepers()) == before
    log = AuditLog.open(tmp_path, content="none")
    log.record(allow)
    gone, log_id = weakref.ref(log), log.log_id
    del log
    gc.collect()
    assert gone() is None
    wait_for(lambda: len(keepers()) == before)
    assert types_in(tmp_path, log_id)[-1] == "log.close"
    sound(tmp_path)


def test_a_log_without_signer_and_interval_has_no_thread(allow):
    before = threading.active_count()
    for durability in (NEVER, Durability(mode="batch"), Durability(mode="always")):
        with AuditLog.open(content="none", sink=MemorySink(), durability=durability) as log:
            log.record(allow)
            assert threading.active_count() == before


def test_a_log_that_is_collected_in_its_own_thread_is_closed(tmp_path, allow, monkeypatch):
    published = threading.Event()
    cell = []

    def collect(_log, _note):
        # The thread holds the log's lock here.
        cell.clear()
        gc.collect()
        published.set()

    checkpoints = settings(every_seconds=0.05, copies=(CallableCopy(collect),))
    cell.append(AuditLog.open(tmp_path, content="none", checkpoints=checkpoints))
    log_id = cell[0].log_id
    cell[0].record(allow)
    assert published.wait(5)
    wait_for(lambda: types_in(tmp_path, log_id)[-1] == "log.close")
    wait_for(lambda: (tmp_path / f"{log_id}.checkpoints").stat().st_mode & 0o777 == 0o400)
    sound(tmp_path)


def test_a_background_checkpoint_that_fails_is_said_and_due_at_the_next_record(tmp_path, allow):
    copy = Flaky()
    log = AuditLog.open(tmp_path, content="none", checkpoints=settings(every_seconds=0.05, copies=(copy,)))
    with structlog.testing.capture_logs() as said:
        log.record(allow)
        wait_for(lambda: said)
    assert said[0]["event"] == "audit_log_not_kept"
    with pytest.raises(AuditSinkError, match="down"):
        log.record(allow)
    copy.down = False
    log.record(allow)
    log.close()
    sound(tmp_path)


FORKS = """
import contextlib, os, sys, threading, time
from pathlib import Path
from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings, Durability
log = AuditLog.open(
    Path(sys.argv[1]), content="none", durability=Durability(seconds=0.01), checkpoints=CheckpointSettings(every_seconds=0.05)
)
stop = threading.Event()
def work():
    while not stop.is_set():
        log.record(bypass_event("unguided", "parent"))
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        own = []
        for one in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                own.append(os.readlink(f"/proc/self/fd/{one}"))
        if [name for name in own if name.endswith((".jsonl", ".checkpoints"))]:
            os._exit(7)
        log.record(bypass_event("unguided", "child"))
        time.sleep(0.2)
        if not (Path(sys.argv[1]) / f"{log.log_id}.checkpoints").stat().st_size:
            os._exit(8)
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        os._exit(status)
stop.set()
for thread in threads:
    thread.join()
log.close()
"""


def test_leaving_the_parents_log_alone_takes_no_lock(tmp_path, allow):
    log = AuditLog.open(tmp_path, content="none")
    log.record(allow)
    writer = log._writer
    locks = [writer._lock, log._opening]
    held, done = threading.Event(), threading.Event()

    def hold():
        with locks[0], locks[1]:
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    child = threading.Thread(target=log._after_fork, daemon=True)
    child.start()
    child.join(5)
    stuck = child.is_alive()
    done.set()
    holder.join()
    writer._keeper.stop()
    writer.join()
    assert not stuck


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at /proc")  # noqa: PTH112
def test_a_child_that_is_forked_while_threads_record_has_a_log_and_a_thread_of_its_own(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", FORKS, tmp_path]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=60)
    reports = sound(tmp_path).logs
    assert len(reports) == 6
    assert all(report.closed for report in reports)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_followed_by_another(tmp_path, allow, syncs):
    def leave(_log, _note):
        if threading.current_thread() is not threading.main_thread():
            raise SystemExit

    copies = (CallableCopy(leave),)
    with AuditLog.open(
        tmp_path,
        content="none",
        durability=Durability(seconds=0.05),
        checkpoints=settings(every_seconds=0.05, copies=copies),
    ) as log:
        first = log._writer._keeper._thread
        wait_for(lambda: not first.is_alive())
        log.record(allow)
        log.record(allow)
        wait_for(lambda: any(thread not in {first, threading.current_thread()} for thread in syncs))
    sound(tmp_path)
