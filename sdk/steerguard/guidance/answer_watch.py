"""An answer watch: a probe that is read at generated tokens, and what follows, as data. The engine executes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steerguard.detect.probe import Probe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AnswerWatch:
    """Read a probe at the newest token of rows whose verdict selects the step, and act where its score is too high.

    A part over the prompt mean keeps what it read at the prompt; every other part reads the newest token.
    A score that is not finite refuses the row.
    """

    step: str
    """Id of the guidance entry that declared it."""
    probe: Probe
    threshold: float
    """float32 value that a score must stay below."""
    fpr: str | None
    """The calibrated false-positive rate that `threshold` came from; None for a raw one."""
    first: int
    """After how many generated tokens the first read is."""
    every: int
    """How many generated tokens lie between two reads."""
    in_a_row: int
    """How many reads, one after the other, must reach the threshold; the score is the lowest of them."""
    opens: tuple[str, ...]
    """Guidance entries that open from the next token on; empty where the row is refused."""

    def reads_after(self, generated: int) -> bool:
        """Return whether there is a read once that many generated tokens went through the model."""
        return generated >= self.first and (generated - self.first) % self.every == 0
