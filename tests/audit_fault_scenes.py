"""What a guarded model does while its disk is full: one scene each; `tests.audit_fault_play` plays them."""

from __future__ import annotations

import functools
import os
import threading
import traceback
from contextlib import suppress

from tests.audit_faults import (
    KEY,
    SIGNER,
    Keeper,
    Service,
    opened,
    records_of,
    require_accounted,
    require_clear,
    service,
)
from tests.guarded_models import conversation, fresh_model, guarded, policy, shared_model, splitting_threshold

import steerguard
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings, Rotation
from steerguard.errors import AuditError, AuditSinkError, NotWrappedError
from steerguard.testing import MemorySink

SEALING = SealingKey.of_secret(bytes(range(32)))


@functools.cache
def document(strategy="buffer", content="hmac"):
    """A policy whose threshold splits a batch; made before anything is limited."""
    more = f"streaming: {{strategy: {strategy}}}\naudit: {{content: {content}}}"
    return policy(splitting_threshold(), "refuse", more=more)


def between_two_decisions_of_a_batch(fault, folder):
    log = opened(folder)
    partly = 0
    with service(log, document=document()) as served:
        for room in range(0, 12_000, 1500):
            served.must_answer(2)
            fault.begin(room)
            served.must_refuse(16)
            fault.begin()
            served.exhaust()
            served.must_refuse(1)
            fault.end()
            served.must_answer(3)
        assert served.guard.audit is log
        log.close()
        records = require_accounted(served.released, folder)
        served.require_accounted(folder)
        finished = {record["req"] for record in records if record["type"] == "guard.request"}
        partly = [record for record in records if record["type"] == "guard.decision" and record["req"] not in finished]
    assert partly, "no fault fell between two decisions"


def a_stream(fault, folder, strategy):
    log = opened(folder)
    with service(log, document=document(strategy)) as served:
        served.must_answer(1, streamer=Keeper())

        def fill():
            fault.begin()
            served.exhaust()

        keeper = Keeper(act=fill, at=3)
        if strategy == "buffer":
            fault.begin()
            served.exhaust()
        served.must_refuse(1, streamer=keeper)
        shown = keeper.columns[1:]
        assert keeper.ends == 1, "a consumer waits for ever"
        assert (strategy == "buffer") == (shown == []), shown
        # Once the disk is full, not even a stream that releases first may begin.
        keeper = Keeper()
        served.must_refuse(1, streamer=keeper)
        assert (keeper.columns[1:], keeper.ends) == ([], 1)
        fault.end()
        keeper = Keeper()
        served.must_answer(1, streamer=keeper)
        assert keeper.columns[1:]
        log.close()
        records = require_accounted(served.released, folder)
    if strategy == "window" and shown:
        begun = {record["req"] for record in records if record["type"] == "guard.decision"}
        finished = {record["req"] for record in records if record["type"] == "guard.request"}
        assert len(begun - finished) == 1, "the text that had left has no record of its verdict"


def buffered_stream(fault, folder):
    a_stream(fault, folder, "buffer")


def window_stream(fault, folder):
    a_stream(fault, folder, "window")


def passthrough_stream(fault, folder):
    a_stream(fault, folder, "unsafe_passthrough")


def at_a_rotation(fault, folder):
    log = opened(folder, rotation=Rotation(max_bytes=4000))
    with service(log, document=document()) as served:
        for room in (0, 200, 900, 2500, 0):
            served.must_answer(4)
            fault.begin(room)
            for _ in range(3):
                served.ask(3)
            fault.begin()
            served.exhaust()
            served.must_refuse(8)
            fault.end()
            served.must_answer(1)
        assert len(list(folder.glob("*.jsonl"))) > 5
        log.close()
        served.require_accounted(folder)


def at_a_checkpoint(fault, folder):
    log = opened(folder, checkpoints=CheckpointSettings(signer=SIGNER, every_records=1))
    with service(log, document=document()) as served:
        for room in (0, 150, 300, 2000, 0):
            served.must_answer(1)
            fault.begin(room)
            served.must_refuse(16)
            fault.end()
            served.must_answer(1)
        log.close()
        served.require_accounted(folder)


def with_encrypted_content(fault, folder):
    log = opened(folder, key=None, content="encrypted", sealing=SEALING, rotation=Rotation(max_bytes=4000))
    spare = opened(folder / "spare", key=None, content="encrypted", sealing=SEALING)
    with service(log, document=document(content="encrypted"), spare=spare) as served:
        for room in (0, 300, 1200, 2400, 0):
            served.must_answer(2)
            fault.begin(room)
            served.ask(8)
            fault.begin()
            served.exhaust()
            served.must_refuse(8)
            fault.end()
            served.must_answer(2)
        log.close()
    spare.close()
    records = records_of(folder)
    finished = {record["req"] for record in records if record["type"] == "guard.request"}
    kept = [record for record in records if record["type"] == "guard.decision" and record["req"] in finished]
    assert len(kept) == len(served.released)


def at_close(fault, folder):
    log = opened(folder)
    with service(log, document=document()) as served:
        served.must_answer(2)
        fault.begin()
        served.exhaust()
        try:
            log.close()
        except AuditSinkError as error:
            require_clear(error)
        else:
            # The last record is smaller than any other, and may fit into the rest of a page.
            assert not fault.of_process
        served.must_refuse(1)
        fault.end()
        served.must_refuse(1)
        served.guard.use_audit(opened(folder))
        served.must_answer(2)
        served.guard.audit.close()
        served.require_accounted(folder)


def at_open(fault, folder):
    with service(AuditLog.open(sink=MemorySink(), key=KEY), document=document()) as served:
        for number, (fresh, room) in enumerate([(True, None), (True, 1), (False, None), (False, 1)]):
            place = folder / str(number)
            if not fresh:
                AuditLog.open(place).close()
            fault.begin(None if fault.of_process else room)
            before = sorted(place.rglob("*")) if place.exists() else []
            error = raised(lambda place=place: AuditLog.open(place))
            assert isinstance(error, AuditError)
            assert error.next_step
            assert error.where
            if not fresh:
                assert sorted(place.rglob("*")) == before, "an empty log was left behind"
            fault.end()
            served.guard.use_audit(AuditLog.open(place, key=KEY))
            served.must_answer(2)
            served.guard.audit.close()
    require_accounted(served.released, *(folder / str(number) for number in range(4)))


def when_wrapping_and_unwrapping(fault, folder):
    model = fresh_model()
    registry_of_weights = shared_model()
    with guarded(registry_of_weights):
        pass
    log = opened(folder)
    fault.begin()
    with suppress(AuditSinkError):
        while True:
            log.record(bypass_event("unguided", "full"))
    error = raised(lambda: service(log, model=model, document=document()).__enter__())
    require_clear(error)
    try:
        steerguard.unwrap(model)
    except NotWrappedError:
        pass
    else:
        raise AssertionError("the model was wrapped without a record")
    fault.end()
    with service(log, model=model, document=document()) as served:
        served.must_answer(2)
        fault.begin()
        served.exhaust()
        require_clear(raised(lambda: steerguard.unwrap(model)))
        served.must_refuse(1)
        fault.end()
        served.must_answer(2)
        log.close()
        served.require_accounted(folder)


def checks_bypasses_and_forward_passes(fault, folder):
    log = opened(folder)
    with service(log, document=document()) as served:
        fault.begin()
        served.exhaust()
        require_clear(raised(lambda: served.guard.check(conversation("hello there"))))
        require_clear(raised(lambda: served.guard.explain(conversation("hello there"))))
        entered = []

        def bypass():
            with served.guard.unguided("a test"):
                entered.append(True)

        require_clear(raised(bypass))
        assert not entered
        served.must_refuse(1)
        fault.end()
        bypass()
        assert entered
        assert served.guard.check(conversation("hello there")).request
        served.must_answer(1)
        log.close()
    records_of(folder)


def after_a_fork(fault, folder):
    log = opened(folder)
    with service(log, document=document()) as served:
        served.must_answer(1)
        asked, answered = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            # When the parent fails, its ends close and the child's reads end.
            os.close(asked[1])
            os._exit(_child(fault, served, asked[0], answered[1]))
        fault.begin()
        served.exhaust()
        served.must_refuse(1)
        os.write(asked[1], b"full\n")
        assert os.read(answered[0], 100) == b"refused\n"
        fault.end()
        os.write(asked[1], b"free\n")
        assert os.read(answered[0], 100) == b"released\n"
        assert os.waitpid(child, 0)[1] == 0
        for end in (*asked, *answered):
            os.close(end)
        served.must_answer(1)
        log.close()
        records = records_of(folder)
        opens = [record for record in records if record["type"] == "log.open"]
        assert [one["forked_from"] for one in opens].count(log.log_id) == 1
        # The child released one answer of two rows.
        finished = [record for record in records if record["type"] == "guard.request"]
        assert sum(one["rows"] for one in finished) == len(served.released) + 2


def _child(fault, served, asked, answered):
    """Ask while the disk is full and again when it is not, as the parent says when; return an exit status."""
    try:
        for act in (fault.begin, fault.end):
            os.read(asked, 100)
            if fault.of_process:
                act()
            error = served.ask(2)
            os.write(answered, b"released\n" if error is None else b"refused\n")
        served.guard.audit.close()
    except BaseException:  # noqa: BLE001 - a child of a fork must not go on in its parent's code
        traceback.print_exc()
        return 1
    return 0


def threads_at_once(fault, folder):
    log = opened(folder, rotation=Rotation(max_bytes=20_000))
    with service(log, document=document()) as served:
        served.must_answer(2)
        workers = [Service(served.model, served.called) for _ in range(2)]
        full, stop = threading.Event(), threading.Event()

        def work(worker):
            while not stop.is_set():
                worker.ask(3)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for _ in range(4):
            fault.begin(1000)
            full.wait(0.15)
            fault.end()
            full.wait(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert all(worker.released for worker in workers)
        assert any(worker.errors for worker in workers)
        served.released += [answer for worker in workers for answer in worker.released]
        served.must_answer(2)
        log.close()
        served.require_accounted(folder)


SCENES = {
    scene.__name__: scene
    for scene in (
        between_two_decisions_of_a_batch,
        buffered_stream,
        window_stream,
        passthrough_stream,
        at_a_rotation,
        at_a_checkpoint,
        with_encrypted_content,
        at_close,
        at_open,
        when_wrapping_and_unwrapping,
        checks_bypasses_and_forward_passes,
        after_a_fork,
        threads_at_once,
    )
}


def raised(action):
    """Return the error of the audit log that an action must raise."""
    try:
        action()
    except AuditError as error:
        return error
    raise AssertionError("nothing was raised")
