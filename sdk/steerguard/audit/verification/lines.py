"""Leads the walk through the lines of a segment, and knows the file and line that it is at."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import orjson

from steerguard.audit.verification.fault import FaultError
from steerguard.audit.verification.files import BLOCK_BYTES, LineReader, open_regular
from steerguard.audit.verification.report import FirstBad
from steerguard.audit.verification.walk import Walk
from steerguard.errors import AuditVerificationError


def walk_lines(walk: Walk, reader: LineReader, place: Place, behind: Path | None = None) -> None:
    """Walk over all lines that the reader has; each is given the one after it.

    Args:
        walk: the state.
        reader: the lines of one segment.
        place: is kept at the line that is being looked at.
        behind: the next segment, whose first line is the one after the last.
    """
    held: bytes | None = None
    accept = walk.accept
    for lines in reader.blocks():
        if held is not None:
            place.line += 1
            accept(held, lines[0])
        for line, following in pairwise(lines):
            place.line += 1
            accept(line, following)
        held = lines[-1]
    if held is not None:
        place.line += 1
        accept(held, None if behind is None else first_line(behind))


@dataclass(slots=True)
class Place:
    """The line that is being looked at."""

    file: str | None = None
    line: int = 0
    before: tuple[str | None, int] = (None, 0)
    """File and line of the last line of the segment before."""

    def go_to(self, file: str) -> None:
        """Go on in the next segment."""
        self.before = (self.file, self.line)
        self.file, self.line = file, 0

    def first_bad(self, fault: FaultError, *, checkpoints: str | None, note_line: int | None) -> FirstBad:
        """Name the file and line that a fault is at."""
        file: str | None = self.file
        line: int | None = self.line
        if fault.at == "note":
            file, line = checkpoints, note_line
        elif fault.at == "none":
            file, line = checkpoints, None
        elif fault.at == "tail":
            line = self.line + 1
        elif fault.at != "line":
            line = None
        elif fault.back:
            file, line = (self.file, self.line - 1) if self.line > 1 else self.before
        return FirstBad(file=file, line=line, seq=fault.seq, until=fault.until, fault=fault.fault, detail=fault.detail)


def require_short(walk: Walk, reader: LineReader) -> None:
    """Raise `FaultError` when reading ended at a line that is too long."""
    if reader.too_long:
        raise FaultError("long", walk.seq, walk.seq, at="tail")


def require_whole(walk: Walk, torn_bytes: int) -> None:
    """Raise `FaultError` when bytes follow the last newline."""
    if torn_bytes:
        raise FaultError("torn", walk.seq, walk.seq, at="tail")


def first_line(path: Path) -> bytes | None:
    """Return the first line of a file, as far as it is one that can be read; it only tells where a fault lies."""
    try:
        with open_regular(path) as file:
            line, newline, _ = file.read(BLOCK_BYTES).partition(b"\n")
    except (AuditVerificationError, OSError):
        return None
    return line if newline else None


def first_seq(line: bytes) -> int | None:
    """Return the sequence number that a line states, as far as it does."""
    try:
        record = orjson.loads(line)
    except ValueError:
        return None
    seq = record.get("seq") if isinstance(record, dict) else None
    return seq if isinstance(seq, int) else None
