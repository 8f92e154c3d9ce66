"""How a walk over a log ends early, and what had verified up to a size."""

from __future__ import annotations

from dataclasses import dataclass

from steerguard.audit.evidence.tree import EMPTY_ROOT
from steerguard.audit.records.chain import FIRST_PREV
from steerguard.audit.verification.report import Fault


class FaultError(Exception):
    """Leaves the walk at the first fault.

    Args:
        fault: what is wrong.
        seq: the first record that may be bad.
        until: the last one; None when that is not known.
        at: where it shows: the current `line`, the bytes behind it (`tail`), the `file` or its `end`, the current `note`, or
            `none` of the notes.
        detail: what the fault is about.
        back: 1 when the line before the current one is meant.
    """

    def __init__(
        self, fault: Fault, seq: int, until: int | None, *, at: str = "line", detail: str = "", back: int = 0
    ) -> None:
        self.fault: Fault = fault
        self.seq = seq
        self.until = until
        self.at = at
        self.detail = detail
        self.back = back
        super().__init__(fault)


@dataclass(slots=True)
class Mark:
    """The state of the log at a size: what had verified up to there."""

    size: int = 0
    head: str = FIRST_PREV
    root: bytes = EMPTY_ROOT
    bytes: int = 0
    t: str | None = None
