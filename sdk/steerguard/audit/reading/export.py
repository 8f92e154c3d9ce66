"""Verified records in other forms: lines as they are, CloudEvents, rows for a spreadsheet."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

import orjson

from steerguard.audit.evidence.durable import sync_directory
from steerguard.audit.evidence.layout import LOG_ID
from steerguard.audit.reading import csv_rows
from steerguard.audit.reading.cloudevents import cloud_event
from steerguard.audit.reading.raw_lines import RawLines
from steerguard.audit.reading.selection import Selection, fits
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verification.report import DirectoryReport
from steerguard.audit.verify import verify_path
from steerguard.errors import AuditError

Format = Literal["jsonl", "cloudevents", "csv"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
CSV_TYPE: Final = "guard.decision"
"""The only event type that rows of a spreadsheet are made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was exported."""

    verification: DirectoryReport
    records: int
    misfits: int
    """Selected records that verified, but do not fit the schema of their type: they are in no form but `jsonl`."""


def export(path: Path, into: BinaryIO, form: Format, selection: Selection, pins: Pins) -> ExportReport:
    """Verify the logs at the path and write what verified and is selected, in constant memory.

    Args:
        path: a directory of logs, or a file of one log.
        into: where the bytes go, record by record.
        form: `jsonl`: the lines as they are, byte by byte. `cloudevents`: one event per line. `csv`: decisions only.
        selection: which records.
        pins: checkpoint keys and checkpoints to verify with.

    Raises:
        AuditVerificationError: a log cannot be read, or changed while it was read.
        AuditError: what `into` stands for cannot be written.
    """
    written = misfits = 0
    with ExitStack() as stack:
        raw = stack.enter_context(RawLines(path)) if form == "jsonl" else None

        def on_record(record: dict[str, Any]) -> None:
            nonlocal written, misfits
            line = None if raw is None else raw.take(record)
            if not selection.admits(record) or (form == "csv" and record["type"] != CSV_TYPE):
                return
            if line is None:
                if not fits(record):
                    misfits += 1
                    return
                line = csv_rows.decision_row(record) if form == "csv" else _event_line(record)
            _write(into, line)
            written += 1

        if form == "csv":
            _write(into, csv_rows.header())
        report = verify_path(path, pins, on_record=on_record)
        for log in report.logs:
            if raw is not None:
                raw.confirm(log.log, log.head)
    return ExportReport(verification=report, records=written, misfits=misfits)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name, with mode 0600 and on the medium, when the block ends, and not at all if it fails.

    An earlier file of the name is replaced in one step.

    Raises:
        AuditError: it cannot be written, is not a regular file, or has the name of a file of a log.
    """
    if LOG_ID.match(path.name):
        raise AuditError(
            "An export must not take the place of a log.",
            where=path,
            expected="a name that does not begin with a log id",
            next_step="Give another name.",
        )
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise AuditError("The export cannot be written.", where=path, expected="a new name, or a regular file")
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            staged.replace(path)
            sync_directory(path.parent)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _write(into: BinaryIO, content: bytes) -> None:
    # Translated here: verification would take an error of the operating system for one of the log's files.
    try:
        into.write(content)
    except OSError as error:
        raise _unwritable(None, error) from error


def _event_line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(cloud_event(record), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def _unwritable(path: Path | None, error: OSError) -> AuditError:
    return AuditError(
        "The export cannot be written.",
        where=path,
        found=error.strerror or type(error).__name__,
        next_step="Make room, or give a path that can be written.",
    )
