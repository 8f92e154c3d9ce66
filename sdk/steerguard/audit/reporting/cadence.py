"""How far apart checkpoints were: how much could have been rewritten at any time without a checkpoint telling.

A checkpoint fixes all records before it. What follows the last one is open to whoever can write the files and holds the
key, until the next one leaves the machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Record = Mapping[str, Any]

_MARKS: Final = frozenset({"checkpoint", "log.rotate"})


class Cadence:
    """The largest gap between two checkpoints over all logs, seen record by record, one log after the other."""

    def __init__(self) -> None:
        self.checkpoints = 0
        """Signed trees that the records name: checkpoint, log.rotate and log.close."""
        self.records = 0
        """Most records that were open at one time."""
        self.microseconds = 0
        """Longest time for which a record was open, on the monotonic clock."""
        self.fewest_copies: int | None = None
        """Fewest other places that a checkpoint went to; None without a checkpoint record."""
        self._log: str | None = None
        self._covered = 0
        self._open_since: int | None = None

    def add(self, record: Record) -> None:
        """Take the next record."""
        if record["log"] != self._log:
            # A pruned log begins with the record that its last checkpoint covers everything before.
            self._log, self._covered, self._open_since = record["log"], record["seq"], None
        if self._open_since is None:
            self._open_since = record["mono"]
        kind = record["type"]
        if kind in _MARKS:
            self._checkpoint(record, covered=record["size"])
        elif kind == "log.close":
            self._checkpoint(record, covered=record["seq"])
            self._covered = record["seq"] + 1
        self.records = max(self.records, record["seq"] + 1 - self._covered)
        self.microseconds = max(self.microseconds, record["mono"] - (self._open_since or 0))
        if kind == "checkpoint":
            copies = record["copies"]
            self.fewest_copies = copies if self.fewest_copies is None else min(self.fewest_copies, copies)

    def _checkpoint(self, record: Record, *, covered: int) -> None:
        self.checkpoints += 1
        self.microseconds = max(self.microseconds, record["mono"] - (self._open_since or 0))
        self._covered = max(self._covered, covered)
        # The record that names a checkpoint is the first one that it does not cover.
        self._open_since = record["mono"]

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "checkpoints": self.checkpoints,
            "most_open_records": self.records,
            "longest_open_us": self.microseconds,
            "fewest_copies": self.fewest_copies,
        }
