from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import row_content
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.record import bypass_event, decision_event
from steerguard.audit.upkeep.hold import place_hold, release_hold
from steerguard.audit.upkeep.retention import FLOOR_DAYS, RETENTION_DAYS, prune
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditError, AuditSinkError, LegalHoldError

SEALING = SealingKey.of_secret(bytes(range(32)))


def later(days):
    return datetime.now(UTC) + timedelta(days=days)


def _finished(directory, *, segments=1, bypasses=2):
    """Write a log of so many segments and close it; returns its id."""
    with AuditLog.open(directory, content="none") as log:
        _write(log, segments=segments, bypasses=bypasses)
        return log.log_id


def _write(log, *, segments=1, bypasses=2):
    for number in range(segments):
        if number:
            log.rotate()
        for _ in range(bypasses):
            log.record(bypass_event("unguided", "a test"))


def _verifies(directory):
    report = verify_directory(directory, strict=True)
    assert [(one.log, one.first_bad) for one in report.logs if one.status == "broken"] == []
    assert report.missing == ()
    assert report.status == "ok"
    return report


def _names(directory):
    return {path.name for path in directory.iterdir() if not path.name.startswith(("checkpoint.", "content."))}


def _tombstones(directory):
    found = []

    def take(record):
        if record["type"] == "log.prune":
            found.append(record)

    verify_directory(directory, on_record=take)
    return found


def test_nothing_is_old_yet(tmp_path):
    _finished(tmp_path, segments=3)
    before = _names(tmp_path)
    pruning = prune(tmp_path)
    assert (pruning.segments, pruning.finished, pruning.older_than_days) == ((), (), RETENTION_DAYS)
    assert _names(tmp_path) == before


def test_a_finished_log_goes_as_a_whole_and_its_tombstones_stay(tmp_path):
    old = _finished(tmp_path, segments=3)
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob(f"{old}*.jsonl"))]
    pruning = prune(tmp_path, now=later(401))
    assert [(one.log, one.segment, one.whole) for one in pruning.segments] == [
        (old, 0, False),
        (old, 1, False),
        (old, 2, True),
    ]
    assert not any(name.startswith(old) for name in _names(tmp_path))
    report = _verifies(tmp_path)
    assert [(one.log, one.segments) for one in report.pruned] == [(old, (0, 0)), (old, (1, 1)), (old, (2, 2))]
    told = _tombstones(tmp_path)
    assert [one["bytes"] for one in told] == sizes
    assert [one["whole"] for one in told] == [False, False, True]
    assert {(one["older_than_days"], one["allowed"]) for one in told} == {(400, None)}


def test_records_follow_one_another_without_a_gap(tmp_path):
    _finished(tmp_path, segments=4, bypasses=3)
    prune(tmp_path, now=later(401))
    told = [one["records"] for one in _tombstones(tmp_path)]
    assert told[0][0] == 0
    assert all(before[1] + 1 == after[0] for before, after in pairwise(told))


def test_a_dry_run_says_the_same_and_changes_nothing(tmp_path):
    _finished(tmp_path, segments=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    now = later(401)
    tried = prune(tmp_path, now=now, dry_run=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert tried.segments == prune(tmp_path, now=now).segments != ()


def test_a_log_in_use_keeps_the_segment_that_it_writes_to(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        _write(log, segments=3)
        pruning = prune(tmp_path, now=later(401))
        assert [(one.log, one.segment, one.whole) for one in pruning.segments] == [
            (log.log_id, 0, False),
            (log.log_id, 1, False),
        ]
        assert f"{log.log_id}.000002.jsonl" in _names(tmp_path)
        _verifies(tmp_path)
        _write(log, segments=2)
    report = _verifies(tmp_path)
    (own,) = [one for one in report.logs if one.log == log.log_id]
    assert [one.segments for one in own.pruned] == [(0, 0), (1, 1)]


def test_pruning_goes_on_where_it_ended(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        _write(log, segments=2)
        prune(tmp_path, now=later(401))
        log.rotate()
        _write(log, segments=2)
        second = prune(tmp_path, now=later(402))
        assert [one.segment for one in second.segments if one.log == log.log_id] == [1, 2]
        _verifies(tmp_path)
    third = prune(tmp_path, now=later(403))
    assert [one.segment for one in third.segments if one.log == log.log_id] == [3]
    assert not any(name.startswith(log.log_id) for name in _names(tmp_path))
    _verifies(tmp_path)


def test_only_old_segments_go(tmp_path, monkeypatch):
    """The cut lies between two logs by their last records' time."""
    old = _finished(tmp_path)
    middle = datetime.now(UTC)
    young = _finished(tmp_path)
    pruning = prune(tmp_path, now=middle + timedelta(days=400))
    assert {one.log for one in pruning.segments} == {old}
    assert any(name.startswith(young) for name in _names(tmp_path))
    _verifies(tmp_path)


def test_years_of_pruning_leave_a_directory_that_verifies(tmp_path):
    """Every round writes a log, keeps one in use, and prunes what is old; the rounds' own logs are pruned in time."""
    with AuditLog.open(tmp_path, content="none") as kept:
        for round_ in range(6):
            _finished(tmp_path, segments=2)
            kept.rotate()
            prune(tmp_path, now=later(401 + round_))
            _verifies(tmp_path)
    for round_ in range(3):
        prune(tmp_path, now=later(500 + round_))
        _verifies(tmp_path)
    # The log in use has gone, and what is left is of the last rounds.
    assert not any(name.startswith(kept.log_id) for name in _names(tmp_path))
    assert len(logs_in(tmp_path)) <= 4


def test_sealed_content_goes_with_its_segment(tmp_path, context, decide):
    with AuditLog.open(tmp_path, content="encrypted", sealing=SEALING) as log:
        for row in range(2):
            if row:
                log.rotate()
            content = row_content(log, "request-1", row, [1], [2], text=None)
            log.record(decision_event(decide(row=row), context, content=content))
        prune(tmp_path, now=later(401))
        names = {name for name in _names(tmp_path) if name.endswith((".sealed", ".keys"))}
        assert names == {f"{log.log_id}.000001.sealed", f"{log.log_id}.000001.keys"}
    prune(tmp_path, now=later(401))
    assert not any(name.endswith((".sealed", ".keys")) for name in _names(tmp_path))
    _verifies(tmp_path)


def test_what_recovery_set_aside_goes_with_its_log(tmp_path):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom steerguard.audit.log import AuditLog\n"
        "log = AuditLog.open(Path(sys.argv[1]), content='none')\n"
        "open(log.path, 'ab').write(b'torn')\nprint(log.log_id, flush=True)\nos._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    dead = done.stdout.strip()
    _finished(tmp_path)
    assert f"{dead}.torn-0" in _names(tmp_path) or any(name.startswith(f"{dead}.torn-") for name in _names(tmp_path))
    prune(tmp_path, now=later(401))
    assert not any(name.startswith(dead) for name in _names(tmp_path))
    _verifies(tmp_path)


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
    _finished(tmp_path)
    report = _verifies(tmp_path)
    (dead,) = [one for one in report.logs if one.recovered]
    assert [one.segments for one in dead.pruned] == [(0, 0), (1, 1), (2, 2)]
    prune(tmp_path, now=later(401))
    assert not any(name.startswith(dead.log) for name in _names(tmp_path))
    _verifies(tmp_path)


class _Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survivors", range(8))
def test_a_pruning_that_is_killed_leaves_what_verifies_and_is_finished_later(tmp_path, monkeypatch, survivors):
    """The process ends before the n-th deletion: the records are there, and files are there or not."""
    with AuditLog.open(tmp_path, content="none") as log:
        _write(log, segments=3)
        dead = _finished(tmp_path, segments=3)
        left = [survivors]
        unlink = Path.unlink

        def killed(path, *, missing_ok=False):
            if path.parent == tmp_path and path.name[:1].isdigit():
                left[0] -= 1
                if left[0] < 0:
                    raise _Killed
            unlink(path, missing_ok=missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", killed)
            try:
                prune(tmp_path, now=later(401))
            except _Killed:
                pass
            else:
                assert survivors >= 16
        _verifies(tmp_path)
        told = len(_tombstones(tmp_path))
        assert told == 5
        pruning = prune(tmp_path)
        assert pruning.segments == ()
        assert pruning.finished != ()
        assert not any(name.startswith(dead) for name in _names(tmp_path))
        assert len(_tombstones(tmp_path)) == told
        _verifies(tmp_path)
        assert prune(tmp_path).finished == ()


def test_before_the_records_nothing_is_deleted(tmp_path, monkeypatch):
    _finished(tmp_path, segments=2)
    before = _names(tmp_path)

    def failing(self, body):
        raise AuditSinkError("No space.")

    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "record", failing)
        with pytest.raises(AuditSinkError):
            prune(tmp_path, now=later(401))
    assert before <= _names(tmp_path)
    _verifies(tmp_path)


def test_a_file_that_cannot_be_deleted_is_an_error_and_the_next_pruning_goes_on(tmp_path, monkeypatch):
    old = _finished(tmp_path, segments=2)

    def failing(path, *, missing_ok=False):
        raise OSError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        with pytest.raises(AuditSinkError, match="Permission denied"):
            prune(tmp_path, now=later(401))
    _verifies(tmp_path)
    assert prune(tmp_path).finished != ()
    assert not any(name.startswith(old) for name in _names(tmp_path))


@pytest.mark.parametrize("segment", [0, 1])
def test_a_log_is_pruned_only_as_far_as_it_verifies(tmp_path, segment):
    old = _finished(tmp_path, segments=3)
    path = tmp_path / f"{old}.{segment:06d}.jsonl"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"a test", b"a tost", 1))
    path.chmod(0o400)
    pruning = prune(tmp_path, now=later(401))
    assert [one.segment for one in pruning.segments] == list(range(segment))
    assert [log for log, _ in pruning.kept] == [old]
    assert path.exists()


def test_a_segment_that_is_not_closed_stays(tmp_path):
    old = _finished(tmp_path, segments=2)
    (tmp_path / f"{old}.000000.jsonl").chmod(0o600)
    assert prune(tmp_path, now=later(401)).segments == ()


def test_a_legal_hold_keeps_everything(tmp_path):
    _finished(tmp_path)
    place_hold(tmp_path, reason="case 17")
    before = _names(tmp_path)
    for dry_run in (False, True):
        with pytest.raises(LegalHoldError):
            prune(tmp_path, now=later(401), dry_run=dry_run)
    assert _names(tmp_path) == before
    release_hold(tmp_path, reason="closed")
    assert prune(tmp_path, now=later(401)).segments != ()


def test_a_hold_also_stops_the_end_of_an_interrupted_pruning(tmp_path, monkeypatch):
    _finished(tmp_path)

    def failing(path, *, missing_ok=False):
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        with pytest.raises(_Killed):
            prune(tmp_path, now=later(401))
    place_hold(tmp_path, reason="case 17")
    before = _names(tmp_path)
    with pytest.raises(LegalHoldError):
        prune(tmp_path)
    assert _names(tmp_path) == before


@pytest.mark.parametrize("days", [1, FLOOR_DAYS - 1])
def test_less_than_six_months_needs_a_reason_which_is_recorded(tmp_path, days):
    _finished(tmp_path)
    with pytest.raises(AuditError, match="six months"):
        prune(tmp_path, older_than_days=days, now=later(401))
    with pytest.raises(AuditError, match="Say why"):
        prune(tmp_path, older_than_days=days, allow_short=" ", now=later(401))
    prune(tmp_path, older_than_days=days, allow_short="a test installation", now=later(401))
    assert {(one["older_than_days"], one["allowed"]) for one in _tombstones(tmp_path)} == {
        (days, "a test installation")
    }


@pytest.mark.parametrize("days", [0, -1])
def test_less_than_a_day_is_nonsense(tmp_path, days):
    with pytest.raises(AuditError, match="a day"):
        prune(tmp_path, older_than_days=days, allow_short="a reason")


def test_what_was_not_pruned_but_stands_in_its_place_is_left_alone(tmp_path, monkeypatch):
    """A record of pruning whose files are other ones: nothing is deleted, verification says so."""
    old = _finished(tmp_path, segments=2)
    copies = {path: path.read_bytes() for path in tmp_path.glob(f"{old}*")}
    prune(tmp_path, now=later(401))
    for path, content in copies.items():
        path.write_bytes(content.replace(b"a test", b"a tost"))
        path.chmod(0o400)
    assert prune(tmp_path).finished == ()
    assert all(path.exists() for path in copies)
    assert verify_directory(tmp_path).status == "broken"


def test_two_prunings_do_not_get_in_each_others_way(tmp_path):
    _finished(tmp_path, segments=3)
    script = (
        "import sys\nfrom pathlib import Path\nfrom datetime import datetime, timedelta, UTC\n"
        "from steerguard.audit.upkeep.retention import prune\n"
        "prune(Path(sys.argv[1]), now=datetime.now(UTC) + timedelta(days=401))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    _verifies(tmp_path)


def test_the_default_is_400_days_and_the_floor_183():
    assert (RETENTION_DAYS, FLOOR_DAYS) == (400, 183)
