"""Hands over the records that verified, in a pass of its own.

Whether a record verifies is known only once a later record and a later checkpoint were read.
Keeping the records until then would take memory without a bound, so the files are read again: only up to where they
verified, with the chain checked again, so that what changed meanwhile is not handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import orjson

from steerguard.audit.evidence.layout import LogFiles, segment_name
from steerguard.audit.verification.files import LineReader, open_regular
from steerguard.audit.verification.report import LogReport
from steerguard.errors import AuditVerificationError

OnRecord = Callable[[dict[str, Any]], None]


def deliver(files: LogFiles, report: LogReport, on_record: OnRecord) -> None:
    """Call `on_record` with each record that verified, in order.

    Raises:
        AuditVerificationError: the files are not any more what was verified.
    """
    delivery = Delivery(report, on_record)
    number = files.segments[0][0] if files.segments else 0
    while not delivery.done:
        path = files.segments[0][1].parent / segment_name(files.log, number) if files.segments else None
        if path is None:
            raise _changed(report)
        with open_regular(path) as file:
            delivery.lines(LineReader(file))
        number += 1


class Delivery:
    """Hands over the records of one log, up to those that verified."""

    def __init__(self, report: LogReport, on_record: OnRecord) -> None:
        self._report = report
        self._on_record = on_record
        self._left = report.records
        self._prev: str | None = None

    @property
    def done(self) -> bool:
        """Whether all were handed over."""
        return self._left == 0

    def lines(self, reader: LineReader) -> None:
        """Hand over the records of one segment.

        Raises:
            AuditVerificationError: the lines are not those that were verified.
        """
        for lines in reader.blocks():
            for line in lines:
                if self._left == 0:
                    return
                self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            record = orjson.loads(line)
            fits = self._prev is None or record["prev"] == self._prev
        except (ValueError, TypeError, KeyError):
            raise _changed(self._report) from None
        self._prev = sha256(b"\x00" + line).hexdigest()
        self._left -= 1
        if not fits or (self._left == 0 and self._prev != self._report.head):
            raise _changed(self._report)
        self._on_record(record)


def _changed(report: LogReport) -> AuditVerificationError:
    return AuditVerificationError(
        "An audit log changed while it was read.",
        where=report.log,
        expected=f"{report.records} records that end with {report.head[:16]}…",
        next_step="Read it again; if it happens twice, keep a copy as evidence.",
    )
