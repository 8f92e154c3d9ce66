"""Where a fault of the chain lies: the line after the one that shows it tells which of the two rows of records goes on."""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import orjson


class Place(NamedTuple):
    """The records that a fault may lie in."""

    seq: int
    until: int
    back: int
    """1 when the line before the one that shows the fault is meant."""
    detail: str


class _Link(NamedTuple):
    seq: object
    prev: object


def misplaced(
    line: bytes,
    number: int,
    following: bytes | None,
    *,
    seq: int,
    prev: str,
    attached: bool,
    repeats: bool,
    good: int,
) -> Place:
    """Return where the fault lies when a line carries another number than the due one.

    Args:
        line: the line.
        number: its sequence number.
        following: the line after it.
        seq: the number that was due.
        prev: leaf hash of the line before.
        attached: whether the line is attached to the one before by its `prev`.
        repeats: whether it is the same as the line before.
        good: records under the last checkpoint that agreed.
    """
    if attached or repeats:
        return Place(seq, seq, 0, f"{number} where {seq} was due")
    if number > seq:
        return Place(seq, seq, 0, f"{number} where {seq} was due")
    link = _link(following)
    if link is not None and (link.seq, link.prev) == (seq, prev):
        # The row goes on behind this line, which is one too many.
        return Place(seq, seq, 0, f"{number} where {seq} was due, and {seq} follows")
    first = max(number, good)
    goes_on = link is not None and (link.seq, link.prev) == (number + 1, _leaf(line))
    until = seq - 1 if goes_on and number == seq - 1 else seq
    return Place(min(first, until), until, 1 if until < seq else 0, f"record {number} is there twice")


def wrong_link(line: bytes, following: bytes | None, *, seq: int) -> int:
    """Return the last record that may be the changed one, when `prev` of record `seq` is not the hash of the one before.

    When the record after it confirms record `seq`, only the one before can be changed.
    """
    link = _link(following)
    return seq - 1 if link is not None and (link.seq, link.prev) == (seq + 1, _leaf(line)) else seq


def _leaf(line: bytes) -> str:
    return sha256(b"\x00" + line).hexdigest()


def _link(line: bytes | None) -> _Link | None:
    try:
        record = None if line is None else orjson.loads(line)
    except ValueError:
        return None
    return _Link(record.get("seq"), record.get("prev")) if isinstance(record, dict) else None
