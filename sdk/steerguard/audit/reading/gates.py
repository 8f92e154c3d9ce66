"""Which readings of a record are those of gates."""

from __future__ import annotations

from typing import Final

_GATE: Final = "/block "


def gated_step(source: str) -> str | None:
    """Return the step whose gate a reading is of, by its source `<step>/block <n>`; None for a reading of something else."""
    step, gate, _ = source.rpartition(_GATE)
    return step if gate else None
