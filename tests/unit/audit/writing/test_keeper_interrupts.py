"""An interrupt at any point of what wakes the background thread of a log leaves one thread, nothing held and all synced."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from tests.audit_directories import sound
from tests.audit_writing import settings, wait_for

from steerguard.audit.log import AuditLog
from steerguard.audit.settings import Durability
from steerguard.audit.sinks import MemorySink
from steerguard.audit.writing.keeper import Keeper
from steerguard.errors import AuditSinkError


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
