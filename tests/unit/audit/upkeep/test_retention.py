from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from tests.pruned_audit_logs import finished_log, later, names_in, tombstones_in, verifies, write_segments

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import row_content
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.record import bypass_event, decision_event
from steerguard.audit.upkeep.hold import place_hold, release_hold
from steerguard.audit.upkeep.retention import FLOOR_DAYS, MAX_DAYS, RETENTION_DAYS, prune
from steerguard.errors import AuditError, LegalHoldError

SEALING = SealingKey.of_secret(bytes(range(32)))


def test_nothing_is_old_yet(tmp_path):
    finished_log(tmp_path, segments=3)
    before = names_in(tmp_path)
    pruning = prune(tmp_path)
    assert (pruning.segments, pruning.finished, pruning.older_than_days) == ((), (), RETENTION_DAYS)
    assert names_in(tmp_path) == before


def test_a_finished_log_goes_as_a_whole_and_its_tombstones_stay(tmp_path):
    old = finished_log(tmp_path, segments=3)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob(f"{old}*.jsonl"))]
    pruning = prune(tmp_path, now=later(401))
    assert [(one.log, one.segment, one.whole) for one in pruning.segments] == [
        (old, 0, False),
        (old, 1, False),
        (old, 2, True),
    ]
    assert not any(name.startswith(old) for name in names_in(tmp_path))
    report = verifies(tmp_path)
    assert [(one.log, one.segments) for one in report.pruned] == [(old, (0, 0)), (old, (1, 1)), (old, (2, 2))]
    told = tombstones_in(tmp_path)
    assert [one["bytes"] for one in told] == sizes
    assert [one["whole"] for one in told] == [False, False, True]
    assert {(one["older_than_days"], one["allowed"]) for one in told} == {(400, None)}


def test_records_follow_one_another_without_a_gap(tmp_path):
    finished_log(tmp_path, segments=4, bypasses=3)
    prune(tmp_path, now=later(401))
    told = [one["records"] for one in tombstones_in(tmp_path)]
    assert told[0][0] == 0
    assert all(before[1] + 1 == after[0] for before, after in pairwise(told))


def test_a_dry_run_says_the_same_and_changes_nothing(tmp_path):
    finished_log(tmp_path, segments=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    now = later(401)
    tried = prune(tmp_path, now=now, dry_run=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert tried.segments == prune(tmp_path, now=now).segments != ()


def test_a_log_in_use_keeps_the_segment_that_it_writes_to(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        write_segments(log, segments=3)
        pruning = prune(tmp_path, now=later(401))
        assert [(one.log, one.segment, one.whole) for one in pruning.segments] == [
            (log.log_id, 0, False),
            (log.log_id, 1, False),
        ]
        assert f"{log.log_id}.000002.jsonl" in names_in(tmp_path)
        verifies(tmp_path)
        write_segments(log, segments=2)
    report = verifies(tmp_path)
    (own,) = [one for one in report.logs if one.log == log.log_id]
    assert [one.segments for one in own.pruned] == [(0, 0), (1, 1)]


def test_pruning_goes_on_where_it_ended(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        write_segments(log, segments=2)
        prune(tmp_path, now=later(401))
        log.rotate()
        write_segments(log, segments=2)
        second = prune(tmp_path, now=later(402))
        assert [one.segment for one in second.segments if one.log == log.log_id] == [1, 2]
        verifies(tmp_path)
    third = prune(tmp_path, now=later(403))
    assert [one.segment for one in third.segments if one.log == log.log_id] == [3]
    assert not any(name.startswith(log.log_id) for name in names_in(tmp_path))
    verifies(tmp_path)


def test_only_old_segments_go(tmp_path, monkeypatch):
    """The cut lies between two logs by their last records' time."""
    old = finished_log(tmp_path)
    middle = datetime.now(UTC)
    young = finished_log(tmp_path)
    pruning = prune(tmp_path, now=middle + timedelta(days=400))
    assert {one.log for one in pruning.segments} == {old}
    assert any(name.startswith(young) for name in names_in(tmp_path))
    verifies(tmp_path)


def test_years_of_pruning_leave_a_directory_that_verifies(tmp_path):
    """Every round writes a log, keeps one in use, and prunes what is old; the rounds' own logs are pruned in time."""
    with AuditLog.open(tmp_path, content="none") as kept:
        for round_ in range(6):
            finished_log(tmp_path, segments=2)
            kept.rotate()
            prune(tmp_path, now=later(401 + round_))
            verifies(tmp_path)
    for round_ in range(3):
        prune(tmp_path, now=later(500 + round_))
        verifies(tmp_path)
    # The log in use has gone, and what is left is of the last rounds.
    assert not any(name.startswith(kept.log_id) for name in names_in(tmp_path))
    assert len(logs_in(tmp_path)) <= 4


def test_sealed_content_goes_with_its_segment(tmp_path, context, decide):
    with AuditLog.open(tmp_path, content="encrypted", sealing=SEALING) as log:
        for row in range(2):
            if row:
                log.rotate()
            content = row_content(log, "request-1", row, [1], [2], text=None)
            log.record(decision_event(decide(row=row), context, content=content))
        prune(tmp_path, now=later(401))
        names = {name for name in names_in(tmp_path) if name.endswith((".sealed", ".keys"))}
        assert names == {f"{log.log_id}.000001.sealed", f"{log.log_id}.000001.keys"}
    prune(tmp_path, now=later(401))
    assert not any(name.endswith((".sealed", ".keys")) for name in names_in(tmp_path))
    verifies(tmp_path)


def test_what_recovery_set_aside_goes_with_its_log(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom steerguard.audit.log import AuditLog\n"
        "log = AuditLog.open(Path(sys.argv[1]), content='none')\n"
        "open(log.path, 'ab').write(b'torn')\nprint(log.log_id, flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    dead = done.stdout.strip()
    finished_log(tmp_path)
    assert f"{dead}.torn-0" in names_in(tmp_path) or any(
        name.startswith(f"{dead}.torn-") for name in names_in(tmp_path)
    )
    prune(tmp_path, now=later(401))
    assert not any(name.startswith(dead) for name in names_in(tmp_path))
    verifies(tmp_path)


def test_a_log_that_was_pruned_and_whose_process_died_is_recovered_and_verifies(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom datetime import datetime, timedelta, UTC\n"
        "from steerguard.audit.log import AuditLog\nfrom steerguard.audit.upkeep.retention import prune\n"
        "from steerguard.audit.records.record import bypass_event\n"
        "log = AuditLog.open(Path(sys.argv[1]), content='none')\n"
        "for number in range(3):\n    log.record(bypass_event('unguided', 'a test'))\n    log.rotate()\n"
        "prune(Path(sys.argv[1]), now=datetime.now(UTC) + timedelta(days=401))\n"
        "log.record(bypass_event('unguided', 'a test'))\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    finished_log(tmp_path)
    report = verifies(tmp_path)
    (dead,) = [one for one in report.logs if one.recovered]
    assert [one.segments for one in dead.pruned] == [(0, 0), (1, 1), (2, 2)]
    prune(tmp_path, now=later(401))
    assert not any(name.startswith(dead.log) for name in names_in(tmp_path))
    verifies(tmp_path)


@pytest.mark.parametrize("segment", [0, 1])
def test_a_log_is_pruned_only_as_far_as_it_verifies(tmp_path, segment):
    old = finished_log(tmp_path, segments=3)
    path = tmp_path / f"{old}.{segment:06d}.jsonl"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"a test", b"a tost", 1))
    path.chmod(0o400)
    pruning = prune(tmp_path, now=later(401))
    assert [one.segment for one in pruning.segments] == list(range(segment))
    assert [log for log, _ in pruning.kept] == [old]
    assert path.exists()


def test_a_segment_that_is_not_closed_stays(tmp_path):
    old = finished_log(tmp_path, segments=2)
    (tmp_path / f"{old}.000000.jsonl").chmod(0o600)
    assert prune(tmp_path, now=later(401)).segments == ()


def test_a_legal_hold_keeps_everything(tmp_path):
    finished_log(tmp_path)
    place_hold(tmp_path, reason="case 17")
    before = names_in(tmp_path)
    for dry_run in (False, True):
        with pytest.raises(LegalHoldError):
            prune(tmp_path, now=later(401), dry_run=dry_run)
    assert names_in(tmp_path) == before
    release_hold(tmp_path, reason="closed")
    assert prune(tmp_path, now=later(401)).segments != ()


@pytest.mark.parametrize("days", [1, FLOOR_DAYS - 1])
def test_less_than_six_months_needs_a_reason_which_is_recorded(tmp_path, days):
    finished_log(tmp_path)
    with pytest.raises(AuditError, match="six months"):
        prune(tmp_path, older_than_days=days, now=later(401))
    with pytest.raises(AuditError, match="Say why"):
        prune(tmp_path, older_than_days=days, allow_short=" ", now=later(401))
    prune(tmp_path, older_than_days=days, allow_short="a test installation", now=later(401))
    assert {(one["older_than_days"], one["allowed"]) for one in tombstones_in(tmp_path)} == {
        (days, "a test installation")
    }


@pytest.mark.parametrize("days", [0, -1])
def test_less_than_a_day_is_nonsense(tmp_path, days):
    with pytest.raises(AuditError, match="a day"):
        prune(tmp_path, older_than_days=days, allow_short="a reason")


def test_the_default_is_400_days_and_the_floor_183():
    assert (RETENTION_DAYS, FLOOR_DAYS) == (400, 183)


def test_a_clock_that_was_set_back_makes_nothing_old(tmp_path, monkeypatch):
    with AuditLog.open(tmp_path, content="none") as log:
        log.record(bypass_event("unguided", "a test"))
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: 0)
            log.record(bypass_event("unguided", "at a clock of 1970"))
            log.rotate()
            log.record(bypass_event("unguided", "at a clock of 1970"))
            log.rotate()
        log.record(bypass_event("unguided", "a test"))
        assert prune(tmp_path).segments == ()
    assert prune(tmp_path).segments == ()
    assert len(prune(tmp_path, now=later(401)).segments) == 3
    verifies(tmp_path)


def test_a_record_from_the_future_keeps_its_log_and_is_told(tmp_path, monkeypatch):
    with AuditLog.open(tmp_path, content="none") as log, monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: int(later(4000).timestamp() * 1e9))
        log.record(bypass_event("unguided", "at a clock ten years ahead"))
    pruning = prune(tmp_path, now=later(500))
    assert (pruning.segments, [one[0] for one in pruning.kept]) == ((), [log.log_id])
    assert "future" in pruning.kept[0][1]


@pytest.mark.parametrize("days", [MAX_DAYS + 1, 400_000, 10**9])
def test_more_days_than_a_calendar_has_are_refused_and_delete_nothing(tmp_path, days):
    finished_log(tmp_path)
    before = names_in(tmp_path)
    with pytest.raises(AuditError, match="older_than_days"):
        prune(tmp_path, older_than_days=days)
    assert names_in(tmp_path) == before


def test_the_longest_time_keeps_everything(tmp_path):
    finished_log(tmp_path)
    assert prune(tmp_path, older_than_days=MAX_DAYS).segments == ()


def test_the_time_to_count_back_from_is_of_any_time_zone(tmp_path):
    now = datetime(2026, 7, 1, 1, tzinfo=timezone(timedelta(hours=14)))
    tmp_path.joinpath("logs").mkdir()
    assert prune(tmp_path / "logs", older_than_days=200, now=now).cutoff == "2025-12-12T11:00:00.000000Z"


def test_what_a_log_in_use_names_keeps_its_records_of_pruning(tmp_path):
    first = finished_log(tmp_path)
    with AuditLog.open(tmp_path, content="none") as log:
        for years in (1, 2, 3):
            prune(tmp_path, now=later(401 * years))
            assert not list(tmp_path.glob(f"{first}*"))
            verifies(tmp_path)
        log.record(bypass_event("unguided", "a test"))
    verifies(tmp_path)
    prune(tmp_path, now=later(401 * 4))
    verifies(tmp_path)


def test_content_that_was_sealed_before_another_thread_rotated_goes_with_its_segment(tmp_path, decide, context):
    with AuditLog.open(tmp_path, content="encrypted", sealing=SEALING) as log:
        content = row_content(log, "request-1", 0, [1, 2], [3], text=lambda _tokens: "text")
        log.rotate()
        log.record(decision_event(decide(), context, content=content))
        verifies(tmp_path)
        pruning = prune(tmp_path, now=later(401))
        assert [(one.log, one.segment) for one in pruning.segments] == [(log.log_id, 0)]
        assert f"{log.log_id}.000000.sealed" not in names_in(tmp_path)
    verifies(tmp_path)
