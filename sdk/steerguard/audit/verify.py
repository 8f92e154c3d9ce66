"""Verification of logs: a pure core over lines of bytes, and a thin reader of files.

A record's own content is covered by the `prev` of the next record alone.
So a record counts, and is handed over, only once that `prev` matched; the last record of a log has none to confirm it.

What it shows and what not is written in docs/audit.md: a log whose end was cut off at a line, or that was rewritten as a
whole by someone who can write the file, still verifies.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
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
    "chain": "its hash is not the `prev` of the next record: it was changed, or that `prev` was; "
    "in a first record, `prev` is not 64 zeros",
    "order": "log.open is not first, or a record follows log.close",
    "clock": "the monotonic clock runs backwards",
}

OnRecord = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstBad:
    """The first record that does not verify; nothing was looked at after the line that showed it.

    A record whose hash differs from the `prev` of the next is the bad one of the two (fault `chain`).
    """

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
    """Records that verified, from the start: the next record confirmed each, except the last record of the log."""
    unconfirmed: int | None
    """Sequence number of the last record when it is counted though no record follows that confirms it.

    Only a `Receipt` kept elsewhere vouches for it. None when the log ends with log.close.
    """
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
        on_record: called with each record once the next one has confirmed it, and with the last record of the log.
    """
    check = _Check(log, on_record)
    first_bad: FirstBad | None = None
    torn_bytes = 0
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            torn_bytes = len(line)
            first_bad = FirstBad(line=number, seq=check.seq, fault="torn")
            break
        try:
            check.accept(line[:-1])
        except _FaultError as found:
            back = 1 if found.fault == "chain" and check.seq > 0 else 0
            first_bad = FirstBad(line=number - back, seq=check.seq - back, fault=found.fault)
            break
    unconfirmed = check.finish() if first_bad is None or torn_bytes else None
    return VerificationReport(
        log=check.log or "",
        records=check.records,
        unconfirmed=unconfirmed,
        head=check.head,
        closed=check.closed,
        first_bad=first_bad,
        torn_bytes=torn_bytes,
        warnings=(*check.warnings, *_warnings(check, first_bad, unconfirmed)),
    )


def _warnings(check: _Check, first_bad: FirstBad | None, unconfirmed: int | None) -> Iterator[str]:
    note = f"the last record ({unconfirmed}) is not confirmed by a following one"
    if first_bad is None and check.records == 0:
        yield "the log is empty: it was cut off, or its process ended before the first record"
    elif first_bad is None and unconfirmed is not None:
        yield f"no log.close: the log is in use, its process was killed, or its end was cut off; {note}"
    elif unconfirmed is not None:
        yield note
    elif first_bad is not None and first_bad.seq == check.records + 1:
        yield f"record {check.records} is not counted: no sound record follows that confirms it"


class _FaultError(Exception):
    def __init__(self, fault: Fault) -> None:
        self.fault: Fault = fault
        super().__init__(fault)


class _DuplicateKeyError(ValueError):
    """Leaves the JSON parser when an object has a key twice."""


class _Check:
    """The state that one line hands to the next."""

    def __init__(self, log: str | None, on_record: OnRecord | None) -> None:
        self.log = log
        self.seq = 0
        self.records = 0
        self.head = FIRST_PREV
        self.closed = False
        self.warnings: list[str] = []
        self._on_record = on_record
        self._pending: dict[str, Any] | None = None
        self._prev = FIRST_PREV
        self._wall_us = 0
        self._mono_us = 0

    def accept(self, line: bytes) -> None:
        """Check one line; it stays pending until the next one confirms it."""
        record = _parsed(line)
        after_close = self._pending is not None and self._pending["type"] == "log.close"
        if record["prev"] == self._prev:
            self._count()
        self.log = record["log"] if self.log is None else self.log
        if record["log"] != self.log:
            raise _FaultError("log")
        if record["seq"] != self.seq:
            raise _FaultError("sequence")
        if record["prev"] != self._prev:
            raise _FaultError("chain")
        if (record["type"] == "log.open") != (self.seq == 0) or after_close:
            raise _FaultError("order")
        self._check_clock(record)
        self._pending = record
        self._prev = leaf_hash(line)
        self.seq += 1

    def finish(self) -> int | None:
        """Count the last record, and return its sequence number unless it is log.close."""
        last = self._pending
        self._count()
        return None if last is None or self.closed else self.seq - 1

    def _count(self) -> None:
        record, self._pending = self._pending, None
        if record is None:
            return
        self.records += 1
        self.head = self._prev
        self.closed = record["type"] == "log.close"
        if self._on_record is not None:
            self._on_record(record)

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
