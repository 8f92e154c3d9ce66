"""What is left of a log whose process died: the whole, chained lines of its last segment, and the bytes behind them.

Only the segment that was being written is read, line by line; the tree over the segments before it is in its first record.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from steerguard.audit.evidence.chain_state import EMPTY_CHAIN, ChainState
from steerguard.audit.evidence.checkpoint import TreeHead
from steerguard.audit.evidence.tree import Frontier
from steerguard.audit.records.chain import FIRST_PREV
from steerguard.errors import AuditVerificationError


@dataclass(slots=True)
class Survived:
    """The whole lines of one segment, from its start."""

    state: ChainState
    """Behind the last whole line."""
    size: int = 0
    """Bytes of the whole lines."""
    torn: bytes = b""
    """What follows them."""
    last: dict[str, Any] | None = None
    """The last record; None where there is no whole line."""
    last_line: bytes = b""
    before_last: ChainState = EMPTY_CHAIN
    """State without the last line."""
    ended: bool = False
    """Whether a recovery was begun: then only log.close is missing."""
    ended_before_last: bool = False
    time_of: dict[str, Any] | None = None
    """The record before the first, where it is in the segment before."""
    key: str | None = None
    """The checkpoint key that the last record about one puts in force, as a verifier key."""
    named: set[str] = field(default_factory=set)
    """Files of torn bytes that records name."""
    _digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @property
    def digest(self) -> hashlib._Hash:
        """SHA-256 over the whole lines."""
        digest = self._digest.copy()
        digest.update(self.last_line)
        return digest

    def take(self, record: dict[str, Any], line: bytes) -> None:
        """Take over the next whole line."""
        self._digest.update(self.last_line)
        self.before_last, self.ended_before_last = self.state, self.ended
        self.state = self.state.after(line[:-1])
        self.size += len(line)
        self.last, self.last_line = record, line
        kind = record.get("type")
        self.ended = kind == "log.recovered" or (self.ended and kind == "log.key_rotate")
        if record.get("checkpoint_key") is not None:
            self.key = str(record["checkpoint_key"])
        if record.get("torn_file") is not None:
            self.named.add(str(record["torn_file"]))

    def set_last_aside(self) -> None:
        """Count the last line to what is torn."""
        self.torn = self.last_line + self.torn
        self.size -= len(self.last_line)
        self.state, self.ended = self.before_last, self.ended_before_last
        self.last_line = b""


def survived(path: Path, log: str, segment: int, heads: Sequence[TreeHead]) -> Survived:
    """Read what is left of a segment.

    Args:
        path: of the segment.
        log: id of the log.
        segment: its number.
        heads: what the log's checkpoints say.

    Raises:
        AuditVerificationError: it is damaged otherwise than by a write that was cut short: a line that does not fit is
            followed by records, or the lines do not agree with the checkpoints.
        OSError: it cannot be read.
    """
    expected = {head.size: head.root for head in heads}
    found = Survived(EMPTY_CHAIN)
    if not stat.S_ISREG(path.lstat().st_mode):
        raise damaged(path, "no regular file")
    with path.open("rb") as file:
        for line in file:
            record = _record(line, log)
            if found.last is None and record is not None:
                found.state = _start(record, segment, path)
                _compare(found.state, expected, path)
            if record is None or not _follows(record, found):
                found.torn = line + file.read()
                break
            found.take(record, line)
            _compare(found.state, expected, path)
    if any(_record(line, log) is not None for line in found.torn.splitlines(keepends=True)):
        raise damaged(path, f"a line that does not fit, with records behind it, at byte {found.size}")
    return found


def damaged(path: Path, found: str) -> AuditVerificationError:
    """Return the error for a log that must be left as it is."""
    return AuditVerificationError(
        "A log was not closed and is damaged, so it is left as it is.",
        where=path,
        found=found,
        next_step="Keep its files as evidence and run `steerguard audit verify` on them.",
    )


def _compare(state: ChainState, expected: dict[int, bytes], path: Path) -> None:
    if state.seq in expected and expected[state.seq] != state.root:
        raise damaged(path, f"other records than the checkpoint of size {state.seq} says")


def _record(line: bytes, log: str) -> dict[str, Any] | None:
    """Return the record that a line holds, None when it is not a whole line of this log."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or record.get("log") != log or type(record.get("seq")) is not int:
        return None
    return record if isinstance(record.get("type"), str) else None


def _start(record: dict[str, Any], segment: int, path: Path) -> ChainState:
    """Return the state before the first record of a segment."""
    if segment == 0:
        return EMPTY_CHAIN
    try:
        size = int(record["size"])
        peaks = tuple(bytes.fromhex(peak) for peak in record["peaks"])
        root = Frontier(size, peaks).root().hex()
        stated = (record["type"], record["segment"], record["root"], record["seq"])
    except (KeyError, TypeError, ValueError):
        raise damaged(path, "a first record that is no log.rotate") from None
    if stated != ("log.rotate", segment, root, size):
        raise damaged(path, "a first record that is not the log.rotate of this segment")
    # The record before it is in the segment before, which is not read.
    return ChainState(size, str(record.get("prev")), peaks)


def _follows(record: dict[str, Any], found: Survived) -> bool:
    state = found.state
    if record["seq"] != state.seq or record.get("prev") != state.prev:
        return False
    return state.seq > 0 or (record.get("type") == "log.open" and record.get("prev") == FIRST_PREV)
