"""The watch: memory only for requests, a thread of its own, and age that decides where the thread is gone."""

from __future__ import annotations

import gc
import os
import threading
import time
from datetime import timedelta

import pytest
import structlog
from tests.revocations import NOW, REGISTRY, Clock, Shelf, artifact, entry, listed, revokes, watch_over

from steerguard.errors import RegistryUnavailableError, RollbackError
from steerguard.policy.failure import Loosening

LOOSENED = Loosening(action="allow", reason="the registry moves this week", expires=(NOW + timedelta(days=40)).date())


def until(condition, seconds=10.0):
    """Wait for another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def threads():
    return [one for one in threading.enumerate() if one.name == "steerguard-revocations"]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    until(lambda: not threads())


@pytest.fixture
def closing():
    """Close watches at the end of a test."""
    made = []
    yield lambda watch: made.append(watch) or watch
    for watch in made:
        watch.close()


def test_no_thread_runs_before_the_first_question_and_none_after_close():
    shelf = Shelf(listed())
    watch = watch_over(shelf)
    assert (watch.is_running, shelf.reads, threads()) == (False, 0, [])
    assert watch.against([artifact()]) == ()
    assert watch.is_running
    assert threads()[0].daemon
    until(lambda: shelf.reads == 1)
    watch.close()
    assert (watch.is_running, threads()) == (False, [])
    assert watch.against([artifact()]) == ()
    assert threads() == []


def test_the_thread_reads_again_and_again_and_requests_learn_of_it(closing):
    shelf = Shelf(listed())
    watch = closing(watch_over(shelf, every=0.01))
    assert watch.against([artifact()]) == ()
    until(lambda: shelf.reads >= 3)
    shelf.put(listed(revokes(), sequence=2))
    until(lambda: watch.against([artifact()]))
    (finding,) = watch.against([artifact()])
    assert (finding.state, finding.action, finding.sequence) == ("revoked", "refuse", 2)


def test_a_request_does_not_wait_for_a_reader_that_hangs(closing):
    shelf, go, began = Shelf(listed()), threading.Event(), threading.Event()

    def hang(registry):
        began.set()
        go.wait(30)
        return shelf(registry)

    watch = closing(watch_over(shelf))
    watch._read = hang
    clock = watch._now
    assert watch.against([artifact()]) == ()
    assert began.wait(10)
    start = time.monotonic()
    assert watch.against([artifact()]) == ()
    clock.now = NOW + timedelta(days=8)
    assert [finding.state for finding in watch.against([artifact()])] == ["stale"]
    assert time.monotonic() - start < 5.0
    go.set()


def test_one_finding_for_each_artifact_and_none_for_others(closing):
    watch = closing(watch_over(Shelf(listed(revokes()))))
    bad, good = artifact(), artifact(digest=f"sha256:{'c' * 64}", version="1.2.1")
    assert [finding.artifact for finding in watch.against([good, bad])] == [bad]
    assert watch.against([]) == ()


def test_a_reader_that_fails_changes_nothing_until_the_list_is_too_old(closing):
    shelf = Shelf(listed(revokes(entry(version="9.0.0", digest=f"sha256:{'d' * 64}"))))
    watch = closing(watch_over(shelf, every=0.01))
    failure = shelf.failures[REGISTRY] = RegistryUnavailableError("The registry does not answer.", where=REGISTRY)
    with structlog.testing.capture_logs() as logs:
        assert watch.against([artifact()]) == ()
        until(lambda: shelf.reads >= 3)
    assert watch.failure is failure
    assert [(line["event"], line["error"]) for line in logs] == [("revocations_not_read", "RegistryUnavailableError")]
    assert watch.against([artifact()]) == ()
    watch._now.now = NOW + timedelta(days=8)
    (finding,) = watch.against([artifact()])
    assert (finding.state, finding.action, finding.reason, finding.sequence) == ("stale", "refuse", None, 1)
    shelf.failures.clear()
    shelf.put(listed(sequence=2, issued=NOW + timedelta(days=8)))
    until(lambda: not watch.against([artifact()]))
    assert watch.failure is None


def test_age_decides_also_where_the_thread_has_died(closing):
    shelf = Shelf(listed())
    watch = closing(watch_over(shelf))
    watch.against([artifact()])
    until(lambda: shelf.reads == 1)
    watch._running.stop.set()
    watch._running.thread.join(10)
    assert watch.is_running is False
    # The next question starts another thread, which brings nothing newer.
    watch._now.now = NOW + timedelta(days=8)
    assert [finding.state for finding in watch.against([artifact()])] == ["stale"]
    until(lambda: shelf.reads == 2)


def test_a_missing_list_speaks_against_everything(closing):
    watch = closing(watch_over(Shelf(), registries=(REGISTRY,)))
    (finding,) = watch.against([artifact()])
    assert (finding.state, finding.registry, finding.sequence) == ("stale", REGISTRY, None)


def test_a_loosening_for_stale_lists_holds_until_its_last_day_and_for_no_revocation(closing):
    clock, shelf = Clock(NOW + timedelta(days=31)), Shelf(listed())
    watch = closing(watch_over(shelf, now=clock, on_stale=LOOSENED))
    (finding,) = watch.against([artifact()])
    assert (finding.state, finding.action, finding.allowed) == ("stale", "warn", LOOSENED.reason)
    clock.now = NOW + timedelta(days=40)
    assert watch.against([artifact()])[0].action == "warn"
    clock.now = NOW + timedelta(days=41)
    assert (watch.against([artifact()])[0].action, watch.against([artifact()])[0].allowed) == ("refuse", None)
    clock.now = NOW + timedelta(days=31)
    shelf.put(listed(revokes(), sequence=2))
    watch.refresh()
    (finding,) = watch.against([artifact()])
    assert (finding.state, finding.action) == ("revoked", "refuse")


def test_a_stale_list_that_refuses_comes_before_a_revocation_that_warns(closing):
    clock = Clock()
    watch = closing(watch_over(Shelf(listed(revokes(action="warn"))), now=clock))
    assert [(one.state, one.action) for one in watch.against([artifact()])] == [("revoked", "warn")]
    clock.now = NOW + timedelta(days=8)
    assert [(one.state, one.action) for one in watch.against([artifact()])] == [("stale", "refuse")]


def test_an_older_list_is_refused_and_what_was_revoked_stays_revoked(closing):
    shelf = Shelf(listed(revokes(), sequence=5))
    watch = closing(watch_over(shelf))
    for other in (listed(sequence=4), listed(sequence=5)):
        shelf.put(other)
        with pytest.raises(RollbackError):
            watch.refresh()
        assert watch.against([artifact()])[0].sequence == 5
    shelf.put(listed(sequence=6))
    watch.refresh()
    assert watch.against([artifact()]) == ()


def test_one_registry_that_fails_keeps_no_other_list_away(closing):
    shelf = Shelf(listed(registry="hf://aaa"), listed(registry="hf://bbb"), listed(registry="hf://ccc"))
    watch = closing(watch_over(shelf))
    shelf.failures["hf://aaa"] = RegistryUnavailableError("The registry does not answer.", where="hf://aaa")
    shelf.put(listed(sequence=9, registry="hf://evil"), under="hf://bbb")
    shelf.put(listed(revokes(), sequence=2, registry="hf://ccc"))
    with pytest.raises(RegistryUnavailableError):
        watch.refresh()
    (finding,) = watch.against([artifact()])
    assert (finding.state, finding.registry) == ("revoked", "hf://ccc")


def test_a_list_that_disappears_stays_known(closing):
    shelf = Shelf(listed(revokes()))
    watch = closing(watch_over(shelf))
    shelf.lists = {}
    watch.refresh()
    assert watch.against([artifact()])[0].state == "revoked"


def test_many_threads_at_once_start_one_thread(closing):
    watch = closing(watch_over(Shelf(listed())))
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        watch.against([artifact()])

    asking = [threading.Thread(target=ask) for _ in range(8)]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    assert len(threads()) == 1


def test_a_watch_that_nobody_uses_any_more_ends_its_thread():
    watch = watch_over(Shelf(listed()))
    watch.against([artifact()])
    assert len(threads()) == 1
    del watch
    gc.collect()
    until(lambda: not threads())


def test_close_does_not_wait_for_ever_and_can_be_called_twice(monkeypatch):
    monkeypatch.setattr("steerguard.trust.watch.JOIN_SECONDS", 0.05)
    go, began = threading.Event(), threading.Event()

    def hang(_registry):
        began.set()
        go.wait(30)

    shelf = Shelf(listed())
    watch = watch_over(shelf)
    watch._read = hang
    watch.against([artifact()])
    assert began.wait(10)
    watch.close()
    watch.close()
    assert len(threads()) == 1
    go.set()
    until(lambda: not threads())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own_from_its_first_question_on(closing):
    shelf = Shelf(listed())
    watch = closing(watch_over(shelf, every=0.01))
    watch.against([artifact()])
    until(lambda: shelf.reads >= 2)
    # As if another thread held the lock at the moment of the fork.
    held = watch._lock
    held.acquire()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            before = watch.is_running
            shelf.put(listed(revokes(), sequence=2))
            watch.against([artifact()])
            until(lambda: watch.against([artifact()]))
            alive = watch.is_running
            watch.close()
            code = 0 if (before, alive, watch.is_running) == (False, True, False) else 2
        finally:
            os._exit(code)
    held.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert watch.is_running
    assert watch.against([artifact()]) == ()
