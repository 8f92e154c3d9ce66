"""What the background thread of a log does, and when it ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress

import pytest
import structlog
from tests.audit_directories import records_in, sizes, sound, types_in
from tests.audit_writing import NEVER, Flaky, settings, wait_for

from steerguard.audit.copies import CallableCopy
from steerguard.audit.log import AuditLog
from steerguard.audit.settings import Durability
from steerguard.audit.sinks import MemorySink
from steerguard.audit.writing.keeper import Keeper
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
    subprocess.run(command, check=True, env=_environment(), timeout=60)
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


def test_an_interrupt_while_the_thread_starts_leaves_one_thread(tmp_path, allow, monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        if thread.name.startswith("steerguard-audit-"):
            raise KeyboardInterrupt

    log = AuditLog.open(tmp_path, content="none", durability=Durability(seconds=0.05), checkpoints=settings())
    log._writer._keeper.stop()
    log._writer.join()
    log._writer._keeper._stopped = False
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log.record(allow)
    log.record(allow)
    name = f"steerguard-audit-{log.log_id}"
    wait_for(lambda: [thread.name for thread in threading.enumerate()].count(name) == 1)
    log.close()
    assert name not in [thread.name for thread in threading.enumerate()]
    sound(tmp_path)


def _environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class _Looked:
    """What a keeper looks after that only counts how often it was tended."""

    log_id = "looked-after"

    def __init__(self):
        self.tended = 0

    def seconds_left(self):
        return None

    def tend(self):
        self.tended += 1


class _InterruptAtCall:
    """Raises KeyboardInterrupt at the n-th call or return, of C functions too, as a signal may."""

    def __init__(self, at):
        self.left = at

    def __call__(self, frame, kind, _argument):
        if kind in {"call", "c_call", "c_return"} and frame.f_code.co_filename != __file__:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def test_an_interrupt_at_any_point_of_a_wake_leaves_nothing_held():
    kept = _Looked()
    keeper = Keeper(kept)
    assert keeper.wake()
    at, interrupted = 0, True
    while interrupted:
        at += 1
        interrupted = False
        sys.setprofile(_InterruptAtCall(at))
        try:
            keeper.wake()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.setprofile(None)
        before = kept.tended
        other = threading.Thread(target=keeper.wake, daemon=True)
        other.start()
        other.join(5)
        assert not other.is_alive(), at
        wait_for(lambda before=before: kept.tended > before)
    assert at > 4
    assert [one.name for one in threading.enumerate()].count("steerguard-audit-looked-after") == 1
    keeper.stop()
    keeper.join()


def test_an_interrupt_while_the_thread_is_started_is_not_taken_for_a_lack_of_threads():
    # In a process of its own: what the interrupt leaves of the locks of `threading` is not mended here.
    subprocess.run([sys.executable, "-c", INTERRUPTED_START], check=True, env=_environment(), timeout=60)


INTERRUPTED_START = """
import os, sys
from steerguard.audit.writing.keeper import Keeper

class Kept:
    log_id = "kept"
    def seconds_left(self): return None
    def tend(self): pass

def interrupt(_frame, kind, argument):
    if kind == "c_return" and argument.__name__ == "release":
        sys.setprofile(None)
        raise KeyboardInterrupt

sys.setprofile(interrupt)
try:
    Keeper(Kept()).wake()
except KeyboardInterrupt:
    os._exit(0)
os._exit(1)
"""


def test_an_interrupt_while_the_thread_is_started_leaves_one_thread_that_ends_with_the_keeper():
    def keepers():
        return [one for one in threading.enumerate() if one.name == "steerguard-audit-looked-after"]

    def interrupt(frame, kind, function):
        # The new thread says that it has begun, and runs.
        if kind == "c_return" and function.__name__ == "acquire" and frame.f_code.co_name == "wait":
            sys.setprofile(None)
            time.sleep(0.05)
            raise KeyboardInterrupt

    met = 0
    for _ in range(20):
        kept = _Looked()
        keeper = Keeper(kept)
        sys.setprofile(interrupt)
        try:
            keeper.wake()
        except KeyboardInterrupt:
            met += 1
        finally:
            sys.setprofile(None)
        for _ in range(3):
            before = kept.tended
            assert keeper.wake()
            wait_for(lambda kept=kept, before=before: kept.tended > before)
        wait_for(lambda: len(keepers()) == 1)
        keeper.stop()
        keeper.join()
        assert not keepers()
    assert met


def test_an_interrupt_of_the_first_unsynced_record_does_not_keep_later_ones_from_being_synced(allow):
    """The keeper's ring may be what the interrupt took away."""

    class Counted(MemorySink):
        @property
        def late(self):
            return len(self.lines) - self.synced

        synced = 0

        def sync(self):
            self.synced = len(self.lines)

    at, interrupted = 0, True
    while interrupted:
        at += 1
        interrupted = False
        sink = Counted()
        log = AuditLog.open(content="none", sink=sink, durability=Durability(seconds=0.02))
        log.record(allow)
        wait_for(lambda sink=sink: not sink.late)
        sys.setprofile(_InterruptIn("mark", at))
        try:
            log.record(allow)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.setprofile(None)
        with suppress(AuditSinkError):
            # This sink cannot tell what an interrupted write left: then the log takes no more.
            log.record(allow)
            wait_for(lambda sink=sink: not sink.late, 0.9)
        log.close()
    assert at > 4


class _InterruptIn(_InterruptAtCall):
    """The same within one function and what it calls."""

    def __init__(self, function, at):
        super().__init__(at)
        self._function = function

    def __call__(self, frame, kind, argument):
        caller = frame
        while caller is not None and caller.f_code.co_name != self._function:
            caller = caller.f_back
        if caller is not None:
            super().__call__(frame, kind, argument)


def test_an_interrupt_that_the_app_is_handling_is_not_raised_again_when_there_is_no_thread(monkeypatch):
    def no_thread(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    keeper = Keeper(_Looked())

    def interrupted():
        raise KeyboardInterrupt

    try:
        interrupted()
    except KeyboardInterrupt:
        assert not keeper.wake()
