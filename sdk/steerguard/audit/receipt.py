"""What `AuditLog.record` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a record is. Kept on another machine, it proves that the log up to here was not rewritten."""

    log: str
    seq: int
    leaf: str
    """Leaf hash of the line, hexadecimal."""
