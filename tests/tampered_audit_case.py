"""One directory of audit logs that is tampered with, and what verification must say about it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.built_audit_logs import PINNED, BuiltLog

from steerguard.audit.evidence.layout import checkpoints_name, segment_name
from steerguard.audit.verify import Pins


@dataclass(frozen=True)
class Expected:
    """What must be found."""

    log: str
    at: int | None = None
    """The first position that differs; None when only the log must be broken."""
    exact: int | None = None
    """The `seq` that must be reported."""
    width: int | None = None
    """How many records the reported range may have at most."""
    missing: bool = False
    """Whether the log must be reported as missing."""


@dataclass
class Case:
    """A directory of logs, one of which is tampered with, and what the verifier knows from elsewhere."""

    random: random.Random
    directory: Path
    logs: list[BuiltLog]
    victim: BuiltLog
    pins: Pins = field(default_factory=lambda: Pins(keys=(PINNED,)))

    @property
    def fixed(self) -> int:
        """Records under the victim's last checkpoint."""
        return self.victim.notes[-1][0]

    @property
    def closed(self) -> bool:
        """Whether a checkpoint covers every record of the victim."""
        return self.fixed == len(self.victim.lines)

    def rows(self) -> list[list[bytes]]:
        """Return the victim's lines by segment."""
        ends = [*self.victim.segments[1:], len(self.victim.lines)]
        return [self.victim.lines[start:end] for start, end in zip(self.victim.segments, ends, strict=True)]

    def write_rows(self, rows: list[list[bytes]]) -> None:
        """Replace the victim's segments; those beyond the rows are deleted."""
        for number in range(len(self.victim.segments)):
            path = self.directory / segment_name(self.victim.log, number)
            if number < len(rows):
                path.write_bytes(b"".join(line + b"\n" for line in rows[number]))
            else:
                path.unlink()

    def place(self, position: int) -> tuple[int, int]:
        """Return segment and index in it of a record; one past the end belongs to the last segment."""
        segment = max(number for number, start in enumerate(self.victim.segments) if start <= position)
        return segment, position - self.victim.segments[segment]

    def some_record(self, *, first: int = 0) -> int:
        """Return a record that a checkpoint covers."""
        return self.random.randrange(first, self.fixed)

    def notes_before(self, index: int) -> int:
        """Return the size of the checkpoint before one, 0 before the first."""
        return self.victim.notes[index - 1][0] if index else 0

    def write_notes(self, notes: list[bytes]) -> None:
        """Replace the victim's checkpoints."""
        (self.directory / checkpoints_name(self.victim.log)).write_bytes(b"".join(notes))
