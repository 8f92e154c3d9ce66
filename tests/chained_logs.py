"""Logs made of chained lines, without a writer: whatever stands in the lines, the chain holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.audit_events import LOG, opened

from steerguard.audit.evidence.layout import segment_name
from steerguard.audit.records.chain import FIRST_PREV, canonical_line, leaf_hash
from steerguard.audit.records.events import EventBody, LogClose

OPEN = opened(durability="never", unsynced_us=None)
START = datetime(2026, 11, 22, 7, 15, tzinfo=UTC)

Line = EventBody | Mapping[str, Any]


def fields(body: Line) -> dict[str, Any]:
    """The body as JSON values, with its type."""
    if isinstance(body, EventBody):
        return {"type": body.event_type, **json.loads(body.model_dump_json(by_alias=True))}
    return dict(body)


def record(body: Line, *, seq: int = 1, log: str = LOG, t: str | None = None, prev: str = FIRST_PREV) -> dict[str, Any]:
    """One record, at one second after the other from 07:15 on."""
    time = f"{START + timedelta(seconds=seq):%Y-%m-%dT%H:%M:%S.%fZ}" if t is None else t
    envelope = {"v": 1, "log": log, "seq": seq, "t": time, "mono": 1_000_000 * seq, "prev": prev}
    return {**envelope, **fields(body)}


def chained(bodies: Iterable[Line], *, log: str = LOG, prev: str = FIRST_PREV, seq: int = 0) -> list[bytes]:
    """The lines of records, without newlines."""
    lines = []
    for number, body in enumerate(bodies, start=seq):
        line = canonical_line(record(body, seq=number, log=log, prev=prev))
        prev = leaf_hash(line)
        lines.append(line)
    return lines


def content(lines: Sequence[bytes]) -> bytes:
    """The bytes of a segment."""
    return b"".join(line + b"\n" for line in lines)


def write_log(directory: Path, bodies: Sequence[Line], *, log: str = LOG, close: bool = True) -> Path:
    """Write a log of one segment, with log.open before the bodies; return the segment."""
    path = directory / segment_name(log, 0)
    path.write_bytes(content(chained([OPEN, *bodies, *([LogClose()] if close else [])], log=log)))
    return path
