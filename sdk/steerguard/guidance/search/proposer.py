"""The contract between a search and what proposes continuations; a search never touches a KV cache itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.methods.search_parts import Draw


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Continuations of the live prefixes, one per row."""

    parents: tuple[int, ...]
    """Which live prefix each one continues."""
    tokens: tuple[tuple[int, ...], ...]
    """Its new tokens, the end-of-turn token included where it ended."""
    ended: tuple[bool, ...]
    """Whether nothing can follow: it ended its turn, met a stopping criterion or reached the limit."""
    log_probs: tuple[float, ...]
    """Sum of the log-probabilities of its new tokens under the scores that the call's settings give, before a
    temperature of the search's own and any penalty of a retry."""
    means: Tensor | None
    """As `CostInputs.means`, from the beginning of the answer; None where nothing reads states."""
    newest: Tensor | None
    """As `CostInputs.newest`."""
    read: Tensor | None
    """As `CostInputs.read`."""
    forward_tokens: int
    """Token positions that went through the decoder to draw them."""


class Proposer(Protocol):
    """Draws continuations of live prefixes; it begins with one live prefix."""

    @property
    def prompt(self) -> str:
        """The prompt as text, for cost models that read texts."""

    def propose(
        self, counts: Sequence[int], max_new_tokens: int, *, draw: Draw, avoid: Mapping[int, float] | None = None
    ) -> Candidates:
        """Draw continuations; without `keep` in between, again from the same live prefixes.

        Args:
            counts: how many of each live prefix, each at least 1. A proposer that enumerates may return others.
            max_new_tokens: at least 1.
            draw: how they are drawn.
            avoid: by token id, what is subtracted from its logit.

        Raises:
            CandidateMemoryError: there was no memory for so many; the live prefixes are as before.
        """

    def keep(self, chosen: Sequence[int]) -> None:
        """Make candidates of the last `propose`, none of them ended, the live prefixes, in this order."""

    def text(self, tokens: Sequence[int]) -> str:
        """Return tokens of an answer as text, without special tokens."""
