"""An interrupt at any line of a record, checkpoint, rotation, key rotation or close leaves a log that verifies."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from contextlib import suppress

import pytest
from tests.audit_directories import records_in
from tests.interrupter import Interrupter

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import token_content
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.records.record import decision_event
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.verify import verify_directory
from steerguard.audit.writing.unattended import close_unattended
from steerguard.errors import AuditError, AuditSinkError
from steerguard.signing.keys import SigningKey

OLD_CONTENT, NEW_CONTENT = ContentKey(b"o" * 32), ContentKey(b"n" * 32)
NEW = SigningKey(bytes([7]) * 32)


@pytest.fixture
def event(decide, context):
    return decision_event(decide(applied="refuse"), context, content=token_content(None, [1, 2], [3]))


AUDIT = ("steerguard/audit/",)
ACTIONS = {
    "record": lambda log, event: log.record(event),
    "checkpoint": lambda log, _event: log.checkpoint(),
    "rotate": lambda log, _event: log.rotate(),
    "checkpoint_key": lambda log, _event: log.rotate_checkpoint_key(NEW),
    "content_key": lambda log, _event: log.rotate_content_key(NEW_CONTENT),
    "close": lambda log, _event: log.close(),
}


def test_an_interrupt_at_any_line_of_opening_leaves_no_lock_and_no_damage(tmp_path):
    at, interrupted = 0, True
    while interrupted:
        at += 5
        folder = tmp_path / str(at)
        AuditLog.open(folder, content="none").close()
        logs = []
        interrupted = Interrupter(at, AUDIT).run(
            lambda into=logs, at=folder: into.append(AuditLog.open(at, content="none"))
        )
        for log in logs:
            log.close()
        # The interrupt does not come again, so whatever holds a lock would hold it for ever.
        assert not _locked(folder), at
        with AuditLog.open(folder, content="none"):
            pass
        report = verify_directory(folder, strict=True)
        assert (report.status, report.missing) == ("ok", ()), at
        assert all(log.closed for log in report.logs), at
    assert at > 100


class _InterruptAt:
    """Raises KeyboardInterrupt once, at a call of a function, or when a C function that it calls returns."""

    def __init__(self, function, *, behind=None):
        self._function, self._behind = function, behind
        self.hit = False

    def __call__(self, frame, kind, argument):
        at = kind == "call" if self._behind is None else kind == "c_return" and argument.__name__ == self._behind
        if at and not self.hit and frame.f_code.co_qualname == self._function:
            self.hit = True
            raise KeyboardInterrupt


def test_an_interrupt_while_a_forgotten_log_is_closed_leaves_no_lock(tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", reported.append)
    log = AuditLog.open(tmp_path, content="none")
    interrupter = _InterruptAt("ChainWriter.close")
    sys.setprofile(interrupter)
    try:
        del log
        gc.collect()
    finally:
        sys.setprofile(None)
    assert interrupter.hit
    assert [one.exc_type for one in reported] == [KeyboardInterrupt]
    assert not _locked(tmp_path)
    report = verify_directory(tmp_path, strict=True)
    assert (report.status, report.logs[0].closed) == ("ok", True)


def test_an_interrupt_while_a_dead_log_is_finished_leaves_no_lock(tmp_path):
    log = AuditLog.open(tmp_path, content="none")
    log._finalizer.detach()
    log._writer.abandon()
    interrupter = _InterruptAt("_recover", behind="dup")
    sys.setprofile(interrupter)
    try:
        with pytest.raises(KeyboardInterrupt):
            AuditLog.open(tmp_path, content="none")
    finally:
        sys.setprofile(None)
    assert not _locked(tmp_path)
    AuditLog.open(tmp_path, content="none").close()
    report = verify_directory(tmp_path, strict=True)
    assert (report.status, {one.closed for one in report.logs}) == ("ok", {True})


def test_a_forked_child_leaves_a_log_that_it_got_a_finalizer_of_to_its_parent(tmp_path):
    log = AuditLog.open(tmp_path, content="none")
    close_unattended(log._writer, os.getpid() + 1)
    assert _locked(tmp_path)
    log.close()
    assert not _locked(tmp_path)


def _locked(folder):
    """Return the files of checkpoints that somebody still holds."""
    held = []
    for path in folder.glob("*.checkpoints"):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.name)
    return held


@pytest.mark.parametrize("action", ACTIONS)
def test_an_interrupt_at_any_line_loses_nothing_and_breaks_nothing(tmp_path, event, action):
    at, interrupted, went_on = 0, True, 0
    # A stride of its own for each action, so that a run takes seconds and still meets every function.
    stride = {"record": 3, "close": 7}.get(action, 5)
    while interrupted:
        at += stride
        folder = tmp_path / str(at)
        log = AuditLog.open(
            folder,
            key=OLD_CONTENT,
            durability=Durability(mode="never"),
            checkpoints=CheckpointSettings(every_records=4),
        )
        receipts = [log.record(event) for _ in range(2)]
        interrupted = Interrupter(at, AUDIT).run(lambda log=log: ACTIONS[action](log, event))
        for _ in range(4):
            # Content that was tagged just before the log found that another key is in force is refused, once.
            with suppress(AuditError):
                tagged = token_content(log.key, [1, 2], [3])
                receipts.append(log.record(event.model_copy(update={"content": tagged})))
                went_on += action != "close"
        with suppress(AuditSinkError):
            log.close()
        AuditLog.open(folder, content="none").close()
        report = verify_directory(folder, strict=True)
        assert report.status == "ok", (at, report)
        assert not report.missing
        lines = records_in(folder, log.log_id)
        stated = [line["key"] for line in lines.values() if line.get("purpose") == "content"]
        assert stated in ([], [NEW_CONTENT.id])
        assert log.key == (NEW_CONTENT if stated else OLD_CONTENT), at
        stated = [line["key"] for line in lines.values() if line.get("purpose") == "checkpoint"]
        assert not stated or log.checkpoint_key.hash == stated[0], at
        assert {receipt.leaf for receipt in receipts} <= set(lines), at
        assert all(one.closed for one in report.logs), (at, report)
    assert at > stride
    # But for `close` the log went on after nearly every interrupt.
    assert action == "close" or went_on >= (3 if action == "content_key" else 4) * (at // stride - 1)


def test_an_interrupt_in_the_middle_of_many_rotations_loses_nothing(tmp_path, event):
    at, interrupted = 0, True
    while interrupted:
        at += 37
        folder = tmp_path / str(at)
        log = AuditLog.open(folder, content="none", rotation=Rotation(max_bytes=2000))
        receipts = []

        def work(log=log, receipts=receipts):
            for _ in range(3):
                receipts.append(log.record(event))

        interrupted = Interrupter(at, AUDIT).run(work)
        receipts += [log.record(event) for _ in range(3)]
        log.close()
        (report,) = verify_directory(folder, strict=True).logs
        assert (report.status, report.closed) == ("ok", True), (at, report)
        assert {receipt.leaf for receipt in receipts} <= set(records_in(folder, log.log_id)), at
