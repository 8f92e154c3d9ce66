"""Logs whose process died, and what a recovery made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from tests import audit_directories

from steerguard.audit.log import AuditLog
from steerguard.audit.records.record import bypass_event
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.verification.report import LogReport
from steerguard.signing.keys import Signer


def dead_log(
    folder: Path, *, max_bytes: int = 10**9, signer: Signer | None = None, records: int = 10, every: int = 4
) -> str:
    """Make a log whose process died; return its id."""
    log = AuditLog.open(
        folder,
        content="none",
        durability=Durability(mode="never"),
        rotation=Rotation(max_bytes=max_bytes),
        checkpoints=CheckpointSettings(every_records=every, signer=signer),
    )
    for number in range(records):
        log.record(bypass_event("unguided", f"number {number}"))
    return kill(log)


def kill(log: AuditLog) -> str:
    """Let go of a log's files as the system does when a process is killed; return its id."""
    name = log.log_id
    log._finalizer.detach()
    log._writer.abandon()
    log._writer = None
    return name


def last_segment(folder: Path, log: str) -> Path:
    """Return the file of the last segment of a log."""
    return max(folder.glob(f"{log}.*.jsonl"))


def recover(folder: Path, **settings: Any) -> list[Any]:
    """Open and close a log; return what it said."""
    with structlog.testing.capture_logs() as said:
        AuditLog.open(folder, content="none", **settings).close()
    return said


def finished(folder: Path) -> dict[str, LogReport]:
    """Verify all logs, which must be sound, closed and read-only; return their reports by log."""
    report = audit_directories.sound(folder)
    assert all(one.closed for one in report.logs), report
    assert all(path.stat().st_mode & 0o777 == 0o400 for path in folder.glob("2*.*"))
    return {one.log: one for one in report.logs}


def recovered_in(folder: Path, log: str) -> list[dict[str, Any]]:
    """Return the records of a log that say that it was recovered."""
    return [one for one in audit_directories.records_in(folder, log).values() if one["type"] == "log.recovered"]
