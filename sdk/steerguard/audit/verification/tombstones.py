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

    _by_log: dict[str, list[Tombstone]] = field(default_factory=dict)

    def add(self, tombstones: Iterable[Tombstone]) -> bool:
        """Take more of them, and return whether any was new."""
        new = False
        for one in tombstones:
            kept = self._by_log.setdefault(one.pruned.log, [])
            if one not in kept:
                kept.append(one)
                new = True
        return new

    @property
    def logs(self) -> tuple[str, ...]:
        """The logs of which something was pruned, oldest first."""
        return tuple(sorted(self._by_log))

    def row(self, log: str) -> tuple[Tombstone, ...]:
        """Return those of a log that follow one another from segment 0 and record 0 on; where they overlap, the longer."""
        row: list[Tombstone] = []
        segment = record = 0
        while True:
            fitting = [
                one
                for one in self._by_log.get(log, ())
                if one.pruned.segments[0] == segment and one.pruned.records[0] == record and _forward(one.pruned)
            ]
            if not fitting:
                return tuple(row)
            longest = max(fitting, key=lambda one: one.pruned.segments[1])
            row.append(longest)
            segment, record = longest.pruned.segments[1] + 1, longest.pruned.records[1] + 1

    def whole(self, log: str) -> tuple[Tombstone, ...]:
        """Return the row when it says that the whole log was pruned; else nothing."""
        row = self.row(log)
        return row if row and row[-1].pruned.whole else ()


def _forward(pruned: PrunedRange) -> bool:
    return pruned.segments[0] <= pruned.segments[1] and pruned.records[0] <= pruned.records[1]
