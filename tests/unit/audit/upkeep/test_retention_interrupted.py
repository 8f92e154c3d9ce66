"""Prunings that are killed, stopped or in each other's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.pruned_audit_logs import finished_log, later, names_in, tombstones_in, verifies, write_segments

from steerguard.audit.log import AuditLog
from steerguard.audit.upkeep.hold import place_hold
from steerguard.audit.upkeep.retention import prune
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditSinkError, LegalHoldError


class _Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survivors", range(8))
def test_a_pruning_that_is_killed_leaves_what_verifies_and_is_finished_later(tmp_path, monkeypatch, survivors):
    """The process ends before the n-th deletion: the records are there, and files are there or not."""
    with AuditLog.open(tmp_path, content="none") as log:
        write_segments(log, segments=3)
        dead = finished_log(tmp_path, segments=3)
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
        verifies(tmp_path)
        told = len(tombstones_in(tmp_path))
        assert told == 5
        pruning = prune(tmp_path)
        assert pruning.segments == ()
        assert pruning.finished != ()
        assert not any(name.startswith(dead) for name in names_in(tmp_path))
        assert len(tombstones_in(tmp_path)) == told
        verifies(tmp_path)
        assert prune(tmp_path).finished == ()


def test_before_the_records_nothing_is_deleted(tmp_path, monkeypatch):
    finished_log(tmp_path, segments=2)
    before = names_in(tmp_path)

    def failing(self, body):
        raise AuditSinkError("No space.")

    with monkeypatch.context() as patched:
        patched.setattr(AuditLog, "record", failing)
        with pytest.raises(AuditSinkError):
            prune(tmp_path, now=later(401))
    assert before <= names_in(tmp_path)
    verifies(tmp_path)


def test_a_file_that_cannot_be_deleted_is_an_error_and_the_next_pruning_goes_on(tmp_path, monkeypatch):
    old = finished_log(tmp_path, segments=2)

    def failing(path, *, missing_ok=False):
        raise OSError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        with pytest.raises(AuditSinkError, match="Permission denied"):
            prune(tmp_path, now=later(401))
    verifies(tmp_path)
    assert prune(tmp_path).finished != ()
    assert not any(name.startswith(old) for name in names_in(tmp_path))


def test_a_hold_also_stops_the_end_of_an_interrupted_pruning(tmp_path, monkeypatch):
    finished_log(tmp_path)

    def failing(path, *, missing_ok=False):
        raise _Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        with pytest.raises(_Killed):
            prune(tmp_path, now=later(401))
    place_hold(tmp_path, reason="case 17")
    before = names_in(tmp_path)
    with pytest.raises(LegalHoldError):
        prune(tmp_path)
    assert names_in(tmp_path) == before


def test_two_prunings_do_not_get_in_each_others_way(tmp_path):
    finished_log(tmp_path, segments=3)
    script = (
        "import sys\nfrom pathlib import Path\nfrom datetime import datetime, timedelta, UTC\n"
        "from steerguard.audit.upkeep.retention import prune\n"
        "prune(Path(sys.argv[1]), now=datetime.now(UTC) + timedelta(days=401))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    verifies(tmp_path)


def test_what_a_pruning_that_was_killed_recorded_keeps_earlier_records(tmp_path):
    with AuditLog.open(tmp_path, content="none") as log:
        write_segments(log, segments=2)
        pruned = log.log_id
        prune(tmp_path, now=later(401))
        write_segments(log, segments=1)
    # A process that dies with the record of the rest leaves a log that is not finished.
    work = (
        "import os, sys; from pathlib import Path; from datetime import UTC, datetime, timedelta;"
        "from steerguard.audit.upkeep import retention;"
        "retention._remove = lambda directory, paths: list(paths) and os._exit(9);"
        "retention.prune(Path(sys.argv[1]), now=datetime.now(UTC) + timedelta(days=401))"
    )
    assert subprocess.run([sys.executable, "-c", work, str(tmp_path)], check=False).returncode == 9
    for years in (2, 3, 4):
        prune(tmp_path, now=later(401 * years))
        verifies(tmp_path)
    assert not list(tmp_path.glob(f"{pruned}*"))


def test_what_was_not_pruned_but_stands_in_its_place_is_left_alone(tmp_path, monkeypatch):
    """A record of pruning whose files are other ones: nothing is deleted, verification says so."""
    old = finished_log(tmp_path, segments=2)
    copies = {path: path.read_bytes() for path in tmp_path.glob(f"{old}*")}
    prune(tmp_path, now=later(401))
    for path, content in copies.items():
        path.write_bytes(content.replace(b"a test", b"a tost"))
        path.chmod(0o400)
    assert prune(tmp_path).finished == ()
    assert all(path.exists() for path in copies)
    assert verify_directory(tmp_path).status == "broken"
