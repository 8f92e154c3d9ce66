"""Verification of logs: a pure core over lines of bytes, and a thin reader of files.

What it shows and what not is written in docs/audit.md: a log whose end was cut off at a line, or that was rewritten as a
whole by someone who can write the file, still verifies.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

from pydantic import ValidationError

from steerguard.audit.chain import FIRST_PREV, LOG_SUFFIX, canonical_line, leaf_hash
from steerguard.audit.events import ANY_RECORD
from steerguard.errors import AuditVerificationError

Fault = Literal["torn", "json", "duplicate_key", "canonical", "schema", "log", "sequence", "chain", "order", "clock"]

CLOCK_SLACK_US: Final = 1_000_000
_SLEW: Final = 1000
"""A clock may be slewed by a few hundred parts per million; one thousandth is allowed."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)

FAULTS: Final[dict[Fault, str]] = {
    "torn": "the bytes after the last newline are not a record: a write or a copy was cut short",
    "json": "the line is not JSON in UTF-8, or holds a number that is not an integer",
    "duplicate_key": "the line has a key twice",
    "canonical": "the line is not in canonical form",
    "schema": "the record does not fit the schema of its type",
    "log": "the record belongs to another log",
    "sequence": "the sequence number is not the next one: a record is missing, repeated or moved",
    "chain": "`prev` is not the hash of the line before: that line or this one was changed",
    "order": "log.open is not first, or a record follows log.close",
    "clock": "the monotonic clock runs backwards",
}

OnRecord = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBad:
    """The first line that does not verify; nothing after it was looked at."""

    line: int
    """From 1."""
    seq: int
    """The sequence number that was due here."""
    fault: Fault

    @property
    def reason(self) -> str:
        """The fault in words."""
        return FAULTS[self.fault]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """What verifying one log found."""

    log: str
    """Stem of the file name, or the log id of the first record."""
    records: int
    """Records that verified, from the start."""
    head: str
    """Leaf hash of the last record that verified: compare it with a `Receipt` kept elsewhere."""
    closed: bool
    first_bad: FirstBad | None
    torn_bytes: int
    """Bytes after the last newline; 0 in a whole log."""
    warnings: tuple[str, ...]

    @property
    def status(self) -> Literal["ok", "broken"]:
        """`ok` when every line verified; warnings do not change that."""
        return "ok" if self.first_bad is None else "broken"


def verify_directory(path: Path) -> tuple[VerificationReport, ...]:
    """Verify every log of a directory, each by itself, by file name. A missing log cannot be noticed.

    Raises:
        AuditVerificationError: the directory or a log cannot be read.
    """
    try:
        logs = sorted(entry for entry in path.iterdir() if entry.name.endswith(LOG_SUFFIX))
    except OSError as error:
        raise _unreadable(path, error) from error
    return tuple(verify_log(log) for log in logs)


def verify_log(path: Path, *, on_record: OnRecord | None = None) -> VerificationReport:
    """Verify one log file; its name must be its log id.

    Raises:
        AuditVerificationError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return verify_lines(file, log=path.name.removesuffix(LOG_SUFFIX), on_record=on_record)
    except OSError as error:
        raise _unreadable(path, error) from error


def verify_bytes(content: bytes, *, log: str | None = None) -> VerificationReport:
    """Verify the bytes of one log; pure."""
    return verify_lines(io.BytesIO(content), log=log)


def verify_lines(
    lines: Iterable[bytes], *, log: str | None = None, on_record: OnRecord | None = None
) -> VerificationReport:
    """Verify one log, given as lines that keep their newline.

    Args:
        lines: each item ends with a newline, except perhaps the last.
        log: log id that every record must have; None takes it from the first record.
        on_record: called with each record once it has verified.
    """
    check = _Check(log)
    first_bad: FirstBad | None = None
    torn_bytes = 0
    for number, line in enumerate(lines, start=1):
        seq = check.seq
        if not line.endswith(b"\n"):
            torn_bytes = len(line)
            first_bad = FirstBad(line=number, seq=seq, fault="torn")
            break
        try:
            record = check.accept(line[:-1])
        except _FaultError as found:
            first_bad = FirstBad(line=number, seq=seq, fault=found.fault)
            break
        if on_record is not None:
            on_record(record)
    warnings = list(check.warnings)
    if first_bad is None and check.seq == 0:
        warnings.append("the log is empty: it was cut off, or its process ended before the first record")
    elif first_bad is None and not check.closed:
        warnings.append("no log.close: the log is in use, its process was killed, or its end was cut off")
    return VerificationReport(
        log=check.log or "",
        records=check.seq,
        head=check.prev,
        closed=check.closed,
        first_bad=first_bad,
        torn_bytes=torn_bytes,
        warnings=tuple(warnings),
    )


class _FaultError(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault: Fault = fault
        super().__init__(fault)


class _DuplicateKeyError(ValueError):
    """Leaves the JSON parser when an object has a key twice."""


class _Check:
    """The state that one line hands to the next."""

    def __init__(self, log: str | None) -> None:
        self.log = log
        self.seq = 0
        self.prev = FIRST_PREV
        self.closed = False
        self.warnings: list[str] = []
        self._wall_us = 0
        self._mono_us = 0

    def accept(self, line: bytes) -> dict[str, Any]:
        record = _parsed(line)
        self.log = record["log"] if self.log is None else self.log
        if record["log"] != self.log:
            raise _FaultError("log")
        if record["seq"] != self.seq:
            raise _FaultError("sequence")
        if record["prev"] != self.prev:
            raise _FaultError("chain")
        if (record["type"] == "log.open") != (self.seq == 0) or self.closed:
            raise _FaultError("order")
        self._check_clock(record)
        self.closed = record["type"] == "log.close"
        self.prev = leaf_hash(line)
        self.seq += 1
        return record

    def _check_clock(self, record: dict[str, Any]) -> None:
        try:
            wall_us = _microseconds(record["t"])
        except ValueError:
            raise _FaultError("schema") from None
        mono_us: int = record["mono"]
        if mono_us < self._mono_us:
            raise _FaultError("clock")
        elapsed = mono_us - self._mono_us
        step = wall_us - self._wall_us - elapsed
        if self.seq > 0 and abs(step) > CLOCK_SLACK_US + elapsed // _SLEW:
            self.warnings.append(
                f"the wall clock moved by {step / 1e6:+.1f} s against the monotonic clock before record {self.seq}: "
                "it was set, or the machine slept"
            )
        self._wall_us, self._mono_us = wall_us, mono_us


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(
            line.decode("utf-8"), object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse
        )
        canonical = isinstance(record, dict) and canonical_line(record) == line
    except _DuplicateKeyError:
        raise _FaultError("duplicate_key") from None
    except (ValueError, RecursionError):
        raise _FaultError("json") from None
    if not isinstance(record, dict):
        raise _FaultError("json")
    if not canonical:
        raise _FaultError("canonical")
    try:
        ANY_RECORD.validate_json(line)
    except ValidationError:
        raise _FaultError("schema") from None
    return record


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _DuplicateKeyError
    return record


def _refuse(_text: str) -> NoReturn:
    raise ValueError


def _microseconds(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - _EPOCH) // _MICROSECOND


def _unreadable(path: Path, error: OSError) -> AuditVerificationError:
    return AuditVerificationError(
        "The audit log cannot be read.",
        where=path,
        found=error.strerror,
        next_step="Give the path of a log file or of a directory of logs.",
    )
