"""Which segments were pruned, as the log.prune records of verified logs state it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from steerguard.audit.verification.report import PrunedRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """One log.prune record of a verified log."""

    pruned: PrunedRange
    root: bytes
    """Tree hash over the records of the pruned log up to the last deleted one."""


@dataclass(slots=True)
class Tombstones:
    """All of a directory; a set, whatever order the logs were verified in."""

    _by_log: dict[str, dict[Tombstone, None]] = field(default_factory=dict)

    def add(self, tombstones: Iterable[Tombstone]) -> bool:
        """Take more of them, and return whether any was new."""
        new = False
        for one in tombstones:
            kept = self._by_log.setdefault(one.pruned.log, {})
            new = new or one not in kept
            kept[one] = None
        return new

    @property
    def logs(self) -> tuple[str, ...]:
        """The logs of which something was pruned, oldest first."""
        return tuple(sorted(self._by_log))

    def row(self, log: str) -> tuple[Tombstone, ...]:
        """Return those of a log that follow one another from segment 0 and record 0 on; where they overlap, the longer.

        Of two that reach as far, one that a checkpoint covers counts before one that anybody may have put there.
        """
        longest: dict[tuple[int, int], Tombstone] = {}
        for one in self._by_log.get(log, ()):
            start = (one.pruned.segments[0], one.pruned.records[0])
            if _forward(one.pruned) and (start not in longest or _reach(longest[start]) < _reach(one)):
                longest[start] = one
        row: list[Tombstone] = []
        segment = record = 0
        while (following := longest.get((segment, record))) is not None:
            row.append(following)
            segment, record = following.pruned.segments[1] + 1, following.pruned.records[1] + 1
        return tuple(row)

    def whole(self, log: str) -> tuple[Tombstone, ...]:
        """Return the row when it says that the whole log was pruned; else nothing."""
        row = self.row(log)
        return row if row and row[-1].pruned.whole else ()


def _reach(one: Tombstone) -> tuple[int, bool]:
    return one.pruned.segments[1], one.pruned.anchored


def _forward(pruned: PrunedRange) -> bool:
    return pruned.segments[0] <= pruned.segments[1] and pruned.records[0] <= pruned.records[1]
