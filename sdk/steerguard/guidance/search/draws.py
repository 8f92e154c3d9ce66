"""Draws candidates within the budget, fewer where the memory does not suffice, and counts what that took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from steerguard.errors import CandidateMemoryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.guidance.search.ledger import Ledger
    from steerguard.guidance.search.proposer import Candidates, Proposer
    from steerguard.methods.search_parts import Draw

Stop = Literal["forward_tokens", "latency", "memory"]
"""The limit that does not let the search go on."""


@dataclass(slots=True, kw_only=True)
class Draws:
    """The draws of one search."""

    proposer: Proposer
    ledger: Ledger
    draw: Draw
    candidates: int
    """N: how many are drawn at once; halved for good when there is no memory for so many."""
    draws: int = field(default=0, init=False)
    retries: int = field(default=0, init=False)
    """How many of the draws were made because the one before was discarded; the search counts them."""
    halvings: int = field(default=0, init=False)
    candidates_drawn: int = field(default=0, init=False)
    forward_tokens: int = field(default=0, init=False)

    def next(self, live: int, room: int, avoid: Mapping[int, float]) -> Candidates | Stop:
        """Draw once.

        Args:
            live: how many live prefixes there are, from 1 to N, best first.
            room: the most new tokens of a candidate, at least 1.
            avoid: by token id, what is subtracted from its logit.

        Returns:
            The candidates, or the limit that forbids to draw them.
        """
        while True:
            counts = spread(self.candidates, live)
            if self.ledger.late():
                return "latency"
            if not self.ledger.fits(sum(counts) * room):
                return "forward_tokens"
            try:
                drawn = self.proposer.propose(counts, room, draw=self.draw, avoid=avoid or None)
            except CandidateMemoryError as error:
                self._spend(error.forward_tokens)
                if self.candidates <= live:
                    return "memory"
                self.candidates = max(self.candidates // 2, live)
                self.halvings += 1
                continue
            self._spend(drawn.forward_tokens)
            self.draws += 1
            self.candidates_drawn += len(drawn.tokens)
            return drawn

    def _spend(self, forward_tokens: int) -> None:
        self.ledger.spend(forward_tokens)
        self.forward_tokens += forward_tokens


def spread(candidates: int, live: int) -> list[int]:
    """Return how many candidates each live prefix gets: the same number, and one more for the first ones."""
    each, more = divmod(candidates, live)
    return [each + (index < more) for index in range(live)]
