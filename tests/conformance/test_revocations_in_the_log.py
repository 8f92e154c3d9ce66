"""What a running guard records of revocations, how long they hold, and in which threads and processes it learns of them."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest
from tests.guarded_models import (
    ALWAYS,
    FailingSink,
    conversation,
    memory_log,
    policy,
    prompts,
    run,
    shared_model,
    splitting_threshold,
)
from tests.revocations import NOW, listed, revokes
from tests.watched_models import Keeper, refused, watched

from steerguard.audit.log import AuditLog
from steerguard.errors import AuditSinkError, RollbackError
from steerguard.testing import MemorySink


def test_without_a_record_of_the_revocation_nothing_leaves_and_the_next_call_tries_again():
    sink = FailingSink(AuditSinkError("The disk is full."))
    with watched(shared_model(), policy(1e6), sink=sink) as one:
        one.revoke()
        sink.at, keeper = 0, Keeper()
        with pytest.raises(AuditSinkError):
            one.model.generate(**prompts(1), streamer=keeper, max_new_tokens=4)
        assert [value for value in keeper.values if value is not None] == []
        assert one.records("artifact.revoked", "guard.decision") == []
        run(one.model, prompts(1))
        kinds = [record["type"] for record in one.records("artifact.revoked", "guard.decision")]
        assert kinds == ["artifact.revoked", "guard.decision"]


def test_the_log_says_it_once_for_each_artifact_and_change():
    with watched(shared_model(), policy(1e6, rules=ALWAYS)) as one:
        for _ in range(3):
            run(one.model, prompts(2), max_new_tokens=2)
        assert one.records("artifact.revoked") == []
        one.revoke("inferaligner", reason="wrong_base")
        for _ in range(3):
            run(one.model, prompts(2), max_new_tokens=2)
        one.model.guard.check(conversation("hello"))
        one.publish(listed(revokes(family="inferaligner", reason="wrong_base"), sequence=3))
        run(one.model, prompts(2), max_new_tokens=2)
        (record,) = one.records("artifact.revoked")
        pin = next(pin for pin in one.model.guard.plan.artifacts if pin.family == "inferaligner")
        assert record["artifact"] == {"ref": pin.reference, "digest": pin.digest}
        assert (record["state"], record["reason"], record["action"]) == ("revoked", "wrong_base", "refuse")
        assert (record["registry"], record["sequence"], record["allowed"]) == ("hf://acme", 2, None)
        one.publish(listed(sequence=4))
        run(one.model, prompts(2), max_new_tokens=2)
        assert [record["state"] for record in one.records("artifact.revoked")] == ["revoked", "restored"]


def test_a_guard_stays_refused_until_a_list_with_a_higher_sequence_says_otherwise():
    with watched(shared_model(), policy(1e6)) as one:

        def cause():
            with one.model.guard.collect() as reports:
                run(one.model, prompts(1), max_new_tokens=1)
            return reports[0].cause

        assert cause() == "default"
        one.revoke(sequence=5)
        assert cause() == "revoked"
        one.shelf.put(listed(sequence=5))
        with pytest.raises(RollbackError, match="two different states"):
            one.watch.refresh()
        assert cause() == "revoked"
        one.shelf.put(listed(sequence=4))
        with pytest.raises(RollbackError, match="older state"):
            one.watch.refresh()
        assert cause() == "revoked"
        one.shelf.lists = {}
        one.watch.refresh()
        assert cause() == "revoked"
        one.publish(listed(sequence=6))
        assert cause() == "default"


def test_a_list_that_became_stale_refuses_and_a_fresh_one_ends_it():
    with watched(shared_model(), policy(1e6, rules=ALWAYS)) as one, one.model.guard.collect() as reports:
        run(one.model, prompts(1), max_new_tokens=1)
        one.clock.now = NOW + timedelta(days=8)
        run(one.model, prompts(1), max_new_tokens=1)
        one.publish(listed(sequence=2, issued=one.clock.now))
        run(one.model, prompts(1), max_new_tokens=1)
        assert [report.cause for report in reports] == ["rule", "revoked", "rule"]
        found = one.records("artifact.revoked")
        artifacts = len(one.model.guard.plan.artifacts)
        assert [record["state"] for record in found] == ["stale"] * artifacts + ["restored"] * artifacts
        assert {(record["action"], record["sequence"]) for record in found} == {("refuse", 1), ("none", None)}


def test_a_registry_whose_list_was_never_read_refuses():
    with watched(shared_model(), policy(1e6), known=False) as one, one.model.guard.collect() as reports:
        run(one.model, prompts(1), max_new_tokens=1)
        assert refused(reports[0])
        found = one.records("artifact.revoked")
        assert {(record["state"], record["sequence"]) for record in found} == {("stale", None)}
        assert len(found) == len(one.model.guard.plan.artifacts)


def test_two_threads_learn_of_it_and_the_log_says_it_once():
    with watched(shared_model(), policy(splitting_threshold())) as one:
        found, barrier = {}, threading.Barrier(3)

        def work(name):
            with one.model.guard.collect() as reports:
                barrier.wait(30)
                for _ in range(6):
                    one.model.generate(**prompts(2), max_new_tokens=3, do_sample=False)
            found[name] = [report.cause for report in reports]

        threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        barrier.wait(30)
        one.revoke()
        for thread in threads:
            thread.join(60)
        for causes in found.values():
            revoked = [cause == "revoked" for cause in causes]
            # Both rows of a call, and every call after the first that saw it.
            assert revoked == sorted(revoked)
            assert revoked.count(True) % 2 == 0
            assert revoked[-1]
        assert len(one.records("artifact.revoked")) == 1
        order = [record for record in one.records() if record["type"] in {"artifact.revoked", "guard.decision"}]
        first = next(index for index, record in enumerate(order) if record["type"] == "artifact.revoked")
        assert all(record["cause"] != "revoked" for record in order[:first] if record["type"] == "guard.decision")


def test_unwrap_ends_the_thread():
    with watched(shared_model(), policy(1e6)) as one:
        watch = one.watch
        assert not watch.is_running
        run(one.model, prompts(1), max_new_tokens=1)
        assert watch.is_running
    assert not watch.is_running
    assert "steerguard-revocations" not in {thread.name for thread in threading.enumerate()}


def test_another_log_is_told_again():
    with watched(shared_model(), policy(1e6)) as one:
        one.revoke()
        run(one.model, prompts(1), max_new_tokens=1)
        one.sink = MemorySink()
        one.model.guard.use_audit(memory_log(one.sink))
        run(one.model, prompts(1), max_new_tokens=1)
        run(one.model, prompts(1), max_new_tokens=1)
        assert len(one.records("artifact.revoked")) == 1


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_watches_by_itself_and_says_so_in_its_own_log(tmp_path):
    with watched(shared_model(), policy(1e6)) as one:
        guard = one.model.guard
        guard.use_audit(AuditLog.open(tmp_path, content="none"))
        one.revoke()
        assert refused(guard.check([conversation("hello")])[0])
        child = os.fork()
        if child == 0:
            code = 1
            try:
                before = one.watch.is_running
                decision = guard.check([conversation("hello")])[0]
                code = 0 if refused(decision) and one.watch.is_running and not before else 2
                one.watch.close()
                guard.audit.close()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert one.watch.is_running
    written = [path.read_text() for path in sorted(tmp_path.glob("*.jsonl"))]
    assert [text.count('"type":"artifact.revoked"') for text in written] == [1, 1]
