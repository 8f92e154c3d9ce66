"""What a search costs, in forward tokens and bytes: exactly once it is known, and at most before it begins.

A *forward token* is one token position of one row that passes through the decoder once. The prompt passes once, as
without a search, and counts for neither number here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerguard.plan.cost import BYTES_PER_ELEMENT, state_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerguard.methods.search_parts import SearchParts
    from steerguard.models.facts import ModelFacts

RESTART_TOKENS = 1
"""What it costs to begin within an answer that was written already: its last kept token passes once more, so that what
follows it is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One time that candidates were drawn, as it was realised."""

    rows: int
    """Candidates that passed through the decoder together."""
    passes: int
    """Decode steps, each of one token of every row; at most the tokens of a block."""


def search_tokens(draws: Sequence[Draw], *, restarted: bool) -> int:
    """Return the forward tokens that a search of one row has made, exactly.

    Args:
        draws: every draw, retries and draws that were left behind included.
        restarted: whether it began within an answer that was written already.
    """
    return sum(draw.rows * draw.passes for draw in draws) + (RESTART_TOKENS if restarted else 0)


def block_length(parts: SearchParts, new_tokens: int) -> int:
    """Return the tokens of a full block.

    Args:
        parts: the search.
        new_tokens: most new tokens of the answer, at least 1.
    """
    return new_tokens if parts.block_tokens is None else min(parts.block_tokens, new_tokens)


def draw_tokens(parts: SearchParts, new_tokens: int) -> int:
    """Return the most forward tokens that one draw of a block makes.

    Args:
        parts: the search.
        new_tokens: most new tokens of the answer, at least 1.
    """
    return parts.candidates * block_length(parts, new_tokens)


def most_search_tokens(parts: SearchParts, new_tokens: int) -> int:
    """Return an upper bound on the forward tokens of a search of one row: every block full, and drawn at every retry.

    Args:
        parts: the search.
        new_tokens: most new tokens of the answer, at least 1.
    """
    if not chooses(parts):
        return 0
    blocks = -(-new_tokens // block_length(parts, new_tokens))
    restart = RESTART_TOKENS if parts.start == "lazy" else 0
    return blocks * (1 + parts.retries) * draw_tokens(parts, new_tokens) + restart


def chooses(parts: SearchParts) -> bool:
    """Return whether there is anything to draw: a lazy search of one whole answer only checks the plain one."""
    return parts.candidates > 1 or parts.block_tokens is not None or parts.start == "always"


def search_bytes(
    parts: SearchParts, facts: ModelFacts, *, prompt_tokens: int, new_tokens: int, read_blocks: int
) -> int | None:
    """Return the most bytes that a search of one row holds beside the model: caches and means of all candidates.

    Args:
        parts: the search.
        facts: of the model.
        prompt_tokens: tokens of the row's prompt, with a prefilled answer.
        new_tokens: most new tokens of the answer, at least 1.
        read_blocks: decoder blocks that the cost model reads.

    Returns:
        None where the model's configuration does not say how wide its caches are.
    """
    if not chooses(parts):
        return 0
    if facts.cache_width is None:
        return None
    width = BYTES_PER_ELEMENT.get(facts.dtype, 4)
    cache = width * facts.num_blocks * facts.cache_width * (prompt_tokens + new_tokens)
    return parts.candidates * (cache + state_bytes(facts.hidden_size, read_blocks))
