"""Verified records in other forms: lines as they are, CloudEvents, rows for a spreadsheet."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import orjson

from steerguard.audit.reading import csv_rows
from steerguard.audit.reading.cloudevents import cloud_event
from steerguard.audit.reading.raw_lines import RawLines
from steerguard.audit.reading.selection import Selection, fits
from steerguard.audit.reading.whole_file import unwritable
from steerguard.audit.verification.pins import Pins
from steerguard.audit.verification.report import DirectoryReport
from steerguard.audit.verify import verify_path

Format = Literal["jsonl", "cloudevents", "csv"]
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


def _write(into: BinaryIO, content: bytes) -> None:
    # Translated here: verification would take an error of the operating system for one of the log's files.
    try:
        into.write(content)
    except OSError as error:
        raise unwritable(None, error) from error


def _event_line(record: dict[str, Any]) -> bytes:
    return orjson.dumps(cloud_event(record), option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)
