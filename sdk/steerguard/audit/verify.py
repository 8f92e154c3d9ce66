"""Verification of audit logs: what was changed, what is missing, and how far the evidence reaches.

`verify_path` checks a directory or the log of one file, `verify_directory` and `verify_log` one of these.
What verification shows and what not is written in docs/audit-integrity.md.
Memory does not grow with the logs: lines are read in blocks, and the tree is its frontier.
"""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from steerguard.audit.evidence.layout import LogFiles, log_at, logs_in
from steerguard.audit.verification.deliver import Delivery, OnRecord, deliver
from steerguard.audit.verification.directory import OTHERS_MAY_EXPLAIN, tombstones_of, verify_set
from steerguard.audit.verification.files import LineReader
from steerguard.audit.verification.keys import KeyBook
from steerguard.audit.verification.log import verify_content, verify_files
from steerguard.audit.verification.pins import NO_PINS, Pins
from steerguard.audit.verification.report import (
    FAULTS,
    DirectoryReport,
    Fault,
    FirstBad,
    LogReport,
    MissingLog,
    PrunedRange,
    SeenKey,
)
from steerguard.audit.verification.tombstones import Tombstones

__all__ = [
    "FAULTS",
    "NO_PINS",
    "DirectoryReport",
    "Fault",
    "FirstBad",
    "LogReport",
    "MissingLog",
    "OnRecord",
    "Pins",
    "PrunedRange",
    "SeenKey",
    "Tombstones",
    "verify_bytes",
    "verify_directory",
    "verify_log",
    "verify_path",
]


def verify_path(
    path: Path, pins: Pins = NO_PINS, *, strict: bool = False, on_record: OnRecord | None = None
) -> DirectoryReport:
    """Verify every log of a directory, or, when the path is a file of a log, that log alone.

    A log alone is checked with what the other logs of its directory say about pruned segments and about new keys, and is
    not held missing or not by them.

    Args:
        path: the directory, or the file.
        pins: what is known from elsewhere.
        strict: whether every line is checked by itself too, and every statement of a log about itself.
        on_record: called with every record that verified, in order per log, oldest log first, after all were verified.

    Raises:
        AuditVerificationError: the directory cannot be read, the file is none of a log, or what verified changed before
            it was handed over.
    """
    if path.is_dir():
        return verify_directory(path, pins, strict=strict, on_record=on_record)
    files = log_at(path)
    verified = verify_files(files, pins, strict=strict, tombstones=Tombstones(), keys=KeyBook(pins.keys))
    bad = verified.report.first_bad
    if bad is not None and bad.fault in OTHERS_MAY_EXPLAIN:
        others = [other for other in logs_in(path.parent) if other.log != files.log]
        tombstones, keys = tombstones_of(others, pins)
        verified = verify_files(files, pins, strict=strict, tombstones=tombstones, keys=keys)
    if on_record is not None and verified.report.records:
        deliver(files, verified.report, on_record)
    return DirectoryReport(logs=(verified.report,), missing=(), pruned=())


def verify_directory(
    path: Path, pins: Pins = NO_PINS, *, strict: bool = False, on_record: OnRecord | None = None
) -> DirectoryReport:
    """Verify every log of a directory, oldest first, and whether a log is missing; arguments as for `verify_path`.

    Raises:
        AuditVerificationError: the directory cannot be read, or what verified changed before it was handed over.
    """
    return verify_set(path, pins, strict=strict, on_record=on_record)


def verify_log(
    files: LogFiles,
    pins: Pins = NO_PINS,
    *,
    strict: bool = False,
    on_record: OnRecord | None = None,
    tombstones: Tombstones | None = None,
) -> LogReport:
    """Verify one log.

    Args:
        files: its files; see `layout.log_at`.
        pins: what is known from elsewhere.
        strict: as for `verify_path`.
        on_record: called with every record that verified, in order, after the log was verified.
        tombstones: what other logs say about pruned segments.

    Raises:
        AuditVerificationError: what verified changed before it was handed over.
    """
    given = Tombstones() if tombstones is None else tombstones
    verified = verify_files(files, pins, strict=strict, tombstones=given, keys=KeyBook(pins.keys))
    if on_record is not None and verified.report.records:
        deliver(files, verified.report, on_record)
    return verified.report


def verify_bytes(
    content: bytes,
    pins: Pins = NO_PINS,
    *,
    log: str | None = None,
    strict: bool = False,
    on_record: OnRecord | None = None,
) -> LogReport:
    """Verify the lines of a log that was written to a sink of its own; pure.

    There is no file of checkpoints, so the records are checked against one another and against `pins.heads` only.

    Args:
        content: lines, each with its newline.
        pins: checkpoints that the log's copies got; keys are not looked at.
        log: log id that every record must have; None takes it from the first record.
        strict: as for `verify_path`.
        on_record: as for `verify_log`.
    """
    report = verify_content(content, replace(pins, keys=()), log=log, strict=strict).report
    if on_record is not None and report.records:
        Delivery(report, on_record).lines(LineReader(io.BytesIO(content)))
    return report
