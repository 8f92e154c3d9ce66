"""What a cost model and a critic are: protocols over answers, read as hidden states or as texts.

A cost is a float32 number per answer, higher is more harmful; unit and threshold are those of the model's manifest.
An answer that is still being written has a cost too: the one that it would have if it ended here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostInputs:
    """Answers to be judged, one per row; states are given where the reader names blocks, texts where it reads texts."""

    means: Tensor | None = None
    """float32 `[rows, parts, width]`: the residual stream behind each read block, mean over the answer tokens that went
    through the model so far. A forced beginning and the end-of-turn token do not count, and of an answer that was cut
    at its limit the last token does not: it never went through the model."""
    newest: Tensor | None = None
    """float32 `[rows, parts, width]`: the same at the newest of these tokens alone."""
    read: Tensor | None = None
    """int64 `[rows]`: how many tokens `means` is over."""
    prompts: Sequence[str] = ()
    answers: Sequence[str] = ()


class CostModel(Protocol):
    """Says what an answer costs."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Decoder blocks of the generator that it reads, one per part; empty for one that reads texts."""

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer, float32 `[rows]`, on the device of its states; higher is more harmful.

        Of a row with no read token the cost is `nan`: there is nothing to judge.
        """


class Critic(Protocol):
    """Says how an unfinished answer will probably end; a cost model's `blocks` and a critic's are the same."""

    def values(self, inputs: CostInputs, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return how each answer will probably end.

        Args:
            inputs: states of the answers so far.
            z: float32 `[rows]`, the safety state.

        Returns:
            The probability that the answer ends with a positive safety state, and the expected cost-to-go (what is
            added to the cost from here to the end, in the cost model's unit), both float32 `[rows]`.
        """
