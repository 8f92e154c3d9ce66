from __future__ import annotations

import json
import stat

import pytest

from steerguard.audit.upkeep.hold import (
    HOLD_FILE,
    hold_in_force,
    maintenance,
    place_hold,
    release_hold,
    require_no_hold,
    stated_reason,
)
from steerguard.errors import AuditError, AuditSinkError, LegalHoldError
from steerguard.registry.file_lock import file_lock


def _holds(directory):
    lines = [line for path in sorted(directory.glob("*.jsonl")) for line in path.read_text("ascii").splitlines()]
    # Ids of logs that were made within one second are in no order.
    records = sorted((json.loads(line) for line in lines), key=lambda record: record["t"])
    return [(record["state"], record["reason"]) for record in records if record["type"] == "log.hold"]


def test_a_hold_is_placed_shown_lifted_and_recorded(tmp_path):
    assert hold_in_force(tmp_path) is None
    placed = place_hold(tmp_path, reason="case 17/é")
    assert hold_in_force(tmp_path) == placed
    assert placed.reason == "case 17/\\xe9"
    assert stat.S_IMODE((tmp_path / HOLD_FILE).stat().st_mode) == 0o600
    release_hold(tmp_path, reason="case closed")
    assert hold_in_force(tmp_path) is None
    assert _holds(tmp_path) == [("held", "case 17/\\xe9"), ("released", "case closed")]


def test_a_second_hold_keeps_the_date_and_takes_the_reason(tmp_path):
    first = place_hold(tmp_path, reason="first")
    second = place_hold(tmp_path, reason="second")
    assert (second.since, second.reason) == (first.since, "second")
    assert hold_in_force(tmp_path) == second
    assert _holds(tmp_path) == [("held", "first"), ("held", "second")]


def test_while_it_holds_nothing_goes_on(tmp_path):
    require_no_hold(tmp_path)
    place_hold(tmp_path, reason="case 17")
    with pytest.raises(LegalHoldError, match="case 17"):
        require_no_hold(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"not JSON", b'{"v":2,"since":"2026-01-01T00:00:00.000000Z","reason":"x"}', b"x" * 100_000]
)
def test_a_file_that_cannot_be_read_counts_as_a_hold(tmp_path, content):
    (tmp_path / HOLD_FILE).write_bytes(content)
    with pytest.raises(LegalHoldError, match="counts as a hold"):
        require_no_hold(tmp_path)
    release_hold(tmp_path, reason="looked at")
    require_no_hold(tmp_path)


@pytest.mark.parametrize("kind", ["link", "directory"])
def test_what_is_no_file_counts_as_a_hold(tmp_path, kind):
    if kind == "link":
        (tmp_path / HOLD_FILE).symlink_to(tmp_path / "absent")
    else:
        (tmp_path / HOLD_FILE).mkdir()
    with pytest.raises(LegalHoldError):
        require_no_hold(tmp_path)


@pytest.mark.parametrize("reason", ["", "  ", "x" * 5001, "é" * 2000])
def test_a_reason_is_needed(tmp_path, reason):
    for call in (place_hold, release_hold):
        with pytest.raises(AuditError, match="Say why"):
            call(tmp_path, reason=reason)
    assert list(tmp_path.iterdir()) == []


def test_there_must_be_a_hold_to_lift(tmp_path):
    with pytest.raises(AuditError, match="no legal hold"):
        release_hold(tmp_path, reason="done")
    assert list(tmp_path.iterdir()) == []


def test_a_hold_that_cannot_be_recorded_holds_and_one_whose_end_cannot_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_CHECKPOINT_KEY", "no key")
    with pytest.raises(Exception, match="key"):
        place_hold(tmp_path, reason="case 17")
    with pytest.raises(LegalHoldError):
        require_no_hold(tmp_path)
    with pytest.raises(Exception, match="key"):
        release_hold(tmp_path, reason="done")
    with pytest.raises(LegalHoldError):
        require_no_hold(tmp_path)


def test_a_directory_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(AuditSinkError, match="cannot be locked"), maintenance(tmp_path / "absent"):
        pass


def test_maintenance_excludes_other_maintenance(tmp_path):
    with maintenance(tmp_path), file_lock(tmp_path, wait=False) as held:
        assert not held
    with file_lock(tmp_path, wait=False) as held:
        assert held


def test_an_error_in_maintenance_is_not_taken_for_one_of_the_lock(tmp_path):
    with pytest.raises(PermissionError), maintenance(tmp_path):
        raise PermissionError


def test_a_stated_reason_is_ascii():
    assert stated_reason(" wegen Prüfung ") == "wegen Pr\\xfcfung"
