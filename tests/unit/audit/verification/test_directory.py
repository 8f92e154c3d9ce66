"""A directory as a set of logs: what was pruned, what is missing, and what changes while it is read."""

from __future__ import annotations

import fcntl
import threading

import pytest
from tests.built_audit_logs import DIGEST, NEXT_KEY, PINNED, Builder, events, log_id

from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.log import AuditLog
from steerguard.audit.records.events import GuardRequest
from steerguard.audit.records.fields import ModelReference, PolicyReference, RecordedActions, RecordedUsage
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.verify import Pins, verify_directory, verify_path

PINS = Pins(keys=(PINNED,))


@pytest.fixture
def old():
    builder = Builder()
    for _ in range(3):
        events(builder, 5, every=4)
        builder.rotate()
    return builder.close()


def pruned(directory, old, *segments, whole=False):
    """Write a log without its first segments, and another that says so."""
    old.write(directory)
    keeper = Builder(1, previous=old.log)
    for first, last in segments:
        keeper.prune(old, (first, last), whole=whole)
        for number in range(first, last + 1):
            (directory / segment_name(old.log, number)).unlink()
    keeper.close().write(directory)
    return keeper.built


@pytest.mark.parametrize("segments", [[(0, 0)], [(0, 1)], [(0, 0), (1, 2)]])
@pytest.mark.parametrize("pins", [PINS, Pins()])
def test_a_pruned_log_verifies_with_its_tombstones(tmp_path, old, segments, pins):
    keeper = pruned(tmp_path, old, *segments)
    seen = []
    report = verify_directory(tmp_path, pins, strict=True, on_record=seen.append)
    assert report.status == "ok", report
    log = report.logs[0]
    first = old.segments[segments[-1][1] + 1]
    assert (log.size, log.records) == (len(old.lines), len(old.lines) - first)
    assert log.pruned[-1].records[1] == first - 1
    assert [one.by_seq for one in log.pruned] == list(range(1, len(segments) + 1))
    assert (log.unanchored, report.anchored) == (0, pins is PINS)
    assert [(one["log"], one["seq"]) for one in seen] == [
        *((old.log, seq) for seq in range(first, len(old.lines))),
        *((keeper.log, seq) for seq in range(len(keeper.lines))),
    ]


def test_a_pruned_log_alone_is_held_against_the_other_logs_of_its_directory(tmp_path, old):
    pruned(tmp_path, old, (0, 0))
    report = verify_path(tmp_path / segment_name(old.log, 1), PINS)
    assert (report.status, len(report.logs)) == ("ok", 1)


def test_a_pruned_log_without_a_tombstone_is_broken_and_says_what_is_gone(tmp_path, old):
    old.write(tmp_path)
    (tmp_path / segment_name(old.log, 0)).unlink()
    (log,) = verify_directory(tmp_path, PINS).logs
    assert (log.first_bad.fault, log.gaps) == ("pruned", ((0, old.segments[1] - 1),))


@pytest.mark.parametrize("stated", [(0, 0), (1, 1)])
def test_a_tombstone_must_reach_to_the_first_segment_that_is_left(tmp_path, old, stated):
    old.write(tmp_path)
    keeper = Builder(1)
    keeper.prune(old, stated)
    keeper.close().write(tmp_path)
    for number in (0, 1):
        (tmp_path / segment_name(old.log, number)).unlink()
    assert verify_directory(tmp_path, PINS).logs[0].first_bad.fault == "pruned"


def test_pruning_that_was_cut_short_is_a_warning(tmp_path, old):
    pruned(tmp_path, old, (0, 1))
    (tmp_path / segment_name(old.log, 1)).write_bytes(old.content(1))
    (log, _) = verify_directory(tmp_path, PINS).logs
    assert log.status == "ok"
    assert any("still there" in warning for warning in log.warnings)


def test_a_tombstone_under_no_checkpoint_is_a_warning_and_not_anchored(tmp_path, old):
    old.write(tmp_path)
    keeper = Builder(1)
    keeper.prune(old, (0, 0))
    keeper.built.write(tmp_path)
    (tmp_path / segment_name(old.log, 0)).unlink()
    report = verify_directory(tmp_path, PINS)
    assert (report.status, report.logs[0].pruned[0].anchored) == ("ok", False)
    assert any("no checkpoint that counts" in warning for warning in report.logs[0].warnings)


def test_a_forged_tombstone_for_a_log_that_was_deleted_is_pointed_out(tmp_path, old):
    Builder(1, previous=old.log).close().write(tmp_path)
    forger = Builder(2)
    forger.prune(old, (0, 3), whole=True)
    forger.built.write(tmp_path)
    report = verify_directory(tmp_path, PINS)
    assert (report.status, report.anchored) == ("ok", False)
    assert [old.log in warning for warning in report.warnings] == [True]
    assert f"({forger.built.log}, record 1)" in report.warnings[0]


def test_a_log_pruned_as_a_whole_is_not_missing(tmp_path, old):
    keeper = pruned(tmp_path, old, (0, 3), whole=True)
    for _ in range(2):
        report = verify_directory(tmp_path, PINS)
        assert (report.status, [one.log for one in report.pruned]) == ("ok", [old.log])
        (tmp_path / checkpoints_name(old.log)).unlink(missing_ok=True)
    assert report.logs[0].log == keeper.log


@pytest.mark.parametrize("by", ["previous", "forked_from", "checkpoints", "recovered"])
def test_a_log_that_something_names_and_that_is_not_there_is_missing(tmp_path, by):
    gone = log_id(0)
    builder = Builder(1, **({by: gone} if by in {"previous", "forked_from"} else {}))
    (builder.recover(gone) if by == "recovered" else builder.close()).write(tmp_path)
    if by == "checkpoints":
        (tmp_path / checkpoints_name(gone)).write_bytes(b"")
    report = verify_directory(tmp_path, PINS)
    assert (report.status, [one.log for one in report.missing]) == ("broken", [gone])
    assert report.logs[0].status == "ok"


def test_an_end_that_may_have_been_cut_off_is_not_anchored(tmp_path, old):
    old.write(tmp_path)
    assert verify_directory(tmp_path, PINS).anchored
    size, _ = old.notes[0]
    (tmp_path / segment_name(old.log, 0)).write_bytes(b"".join(line + b"\n" for line in old.lines[:size]))
    for number in (1, 2, 3):
        (tmp_path / segment_name(old.log, number)).unlink()
    (tmp_path / checkpoints_name(old.log)).write_bytes(old.notes[0][1])
    report = verify_directory(tmp_path, PINS)
    assert (report.status, report.logs[0].unanchored, report.anchored) == ("ok", 0, False)


def test_a_log_that_is_named_and_was_emptied_is_not_anchored(tmp_path, old):
    (tmp_path / segment_name(old.log, 0)).write_bytes(b"")
    (tmp_path / checkpoints_name(old.log)).write_bytes(b"")
    Builder(1, previous=old.log).close().write(tmp_path)
    report = verify_directory(tmp_path, PINS)
    assert (report.status, report.anchored) == ("ok", False)


def test_a_log_alone_may_be_signed_by_a_key_that_another_log_introduces(tmp_path):
    first = Builder()
    first.rotate_key(NEXT_KEY)
    first.close().write(tmp_path)
    second = Builder(1, signer=NEXT_KEY, previous=first.built.log).close()
    second.write(tmp_path)
    report = verify_path(tmp_path / segment_name(second.log, 0), PINS)
    assert (report.status, [log.log for log in report.logs]) == ("ok", [second.log])
    alone = tmp_path / "alone"
    alone.mkdir()
    second.write(alone)
    assert verify_path(alone / segment_name(second.log, 0), PINS).logs[0].first_bad.fault == "unpinned"


def test_a_key_of_a_pruned_log_that_nothing_names_must_be_pinned(tmp_path, old):
    old.write(tmp_path)
    keeper = Builder(1, signer=NEXT_KEY)
    keeper.prune(old, (0, 0))
    keeper.close().write(tmp_path)
    (tmp_path / segment_name(old.log, 0)).unlink()
    assert verify_directory(tmp_path).logs[0].first_bad.fault == "unpinned"


def test_a_line_that_is_being_written_is_no_fault_while_the_log_is_held(tmp_path):
    builder = Builder()
    events(builder, 3)
    builder.built.write(tmp_path)
    with (tmp_path / segment_name(builder.built.log, 0)).open("ab") as file:
        file.write(b'{"v":1,')
    assert verify_directory(tmp_path, PINS).logs[0].first_bad.fault == "torn"
    with (tmp_path / checkpoints_name(builder.built.log)).open("ab") as held:
        held.write(b"steerguard-audit/")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        (log,) = verify_directory(tmp_path, PINS).logs
    assert (log.status, log.in_use, log.torn_bytes, log.records) == ("ok", True, 7, 4)
    assert "in use" in log.warnings[0]


def test_a_log_verifies_at_any_time_while_it_is_written_and_rotated(tmp_path):
    body = GuardRequest(
        req="r",
        call="generate",
        rows=1,
        mode="enforce",
        policy=PolicyReference(name="p", version="1", digest=DIGEST),
        plan=DIGEST,
        model=ModelReference(name="m", architecture="M", dtype="float32"),
        intended=RecordedActions(allow=1, annotate=0, guide=0, refuse=0),
        applied=RecordedActions(allow=1, annotate=0, guide=0, refuse=0),
        usage=RecordedUsage(prompt_tokens=1, generated_tokens=1, extra_forward_tokens=0),
        duration_us=1,
        guard_us=1,
    )
    log = AuditLog.open(
        tmp_path,
        content="none",
        durability=Durability(mode="never"),
        rotation=Rotation(max_bytes=8_000),
        checkpoints=CheckpointSettings(every_records=7),
    )
    stop = threading.Event()

    def write():
        # Slowly enough that the readings of an ever longer log come to an end on one core as well.
        while not stop.wait(0.002):
            log.record(body)

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        pins = Pins(keys=(log.checkpoint_key,))
        sizes = []
        while len(sizes) < 60 or len(list(tmp_path.glob("*.jsonl"))) < 12:
            report = verify_directory(tmp_path, pins, strict=len(sizes) % 4 == 0)
            assert report.status == "ok", report
            sizes.append(report.logs[0].size)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
        log.close()
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]
    report = verify_directory(tmp_path, pins, strict=True)
    assert (report.status, report.anchored, report.logs[0].closed) == ("ok", True, True)
