"""The budget of a search while it runs: what it may still spend, and what it has spent."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Counts forward tokens and time against their limits. Its time begins when it is made; None is no limit."""

    max_forward_tokens: int | None = None
    max_candidates: int | None = None
    """Candidates that may be alive at once; a search draws no more than these."""
    max_latency_seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    """In seconds."""
    forward_tokens: int = field(default=0, init=False)
    """Spent so far."""
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    def fits(self, forward_tokens: int) -> bool:
        """Tell whether so many more forward tokens are within the limit; ask with an upper bound before a draw."""
        return self.max_forward_tokens is None or self.forward_tokens + forward_tokens <= self.max_forward_tokens

    def spend(self, forward_tokens: int) -> None:
        """Count forward tokens that were spent."""
        self.forward_tokens += forward_tokens

    def overshoot_seconds(self) -> float:
        """Return by how much the time limit is passed now; 0 where it is not, or where there is none."""
        if self.max_latency_seconds is None:
            return 0.0
        return max(0.0, self.clock() - self.began - self.max_latency_seconds)

    def late(self) -> bool:
        """Tell whether the time is up; ask between blocks, because a block that is under way is not interrupted."""
        return self.overshoot_seconds() > 0.0
