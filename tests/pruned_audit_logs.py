"""Logs to be pruned, and what is left of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.audit_directories import sound

from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.verification.report import DirectoryReport
from steerguard.audit.verify import verify_directory


def later(days: float) -> datetime:
    """The time in so many days."""
    return datetime.now(UTC) + timedelta(days=days)


def finished_log(directory: Path, *, segments: int = 1, bypasses: int = 2) -> str:
    """Write a log of so many segments and close it; return its id."""
    with AuditLog.open(directory, content="none") as log:
        write_segments(log, segments=segments, bypasses=bypasses)
        return log.log_id


def write_segments(log: AuditLog, *, segments: int = 1, bypasses: int = 2) -> None:
    """Fill the segment that a log writes to, and begin and fill further ones."""
    for number in range(segments):
        if number:
            log.rotate()
        for _ in range(bypasses):
            log.record(bypass_event("unguided", "a test"))


def verifies(directory: Path) -> DirectoryReport:
    """Verify all logs strictly: they must be sound, and none may be missing."""
    report = sound(directory)
    assert report.missing == ()
    return report


def names_in(directory: Path) -> set[str]:
    """The files of logs."""
    return {path.name for path in directory.iterdir() if not path.name.startswith(("checkpoint.", "content."))}


def tombstones_in(directory: Path) -> list[dict[str, Any]]:
    """The records of what was pruned."""
    found = []

    def take(record: dict[str, Any]) -> None:
        if record["type"] == "log.prune":
            found.append(record)

    verify_directory(directory, on_record=take)
    return found
