"""Which candidates go on: possible before impossible, safe before unsafe, then the better score, then the order.

    possible   every number is finite and, once it has ended, the final check would let it pass
    safe       possible, z > 0 where the search tracks safety, and P(ends safe) > 0.5 where a critic reads it
    score      its value if it is safe, else its cost; lower is better

An impossible candidate is never kept. An unsafe one is kept only where no candidate is safe: the reshaped cost of
InferenceGuard (arXiv 2502.01208, section 3) with n to infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerguard.guidance.search.search_guidance import SearchGuidance

ENDS_SAFE = 0.5
"""A critic's probability has to be above it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One answer of a search, finished or not."""

    tokens: tuple[int, ...]
    """The whole answer so far."""
    ended: bool
    cost: float
    """What it costs, or would cost if it ended here."""
    z: float
    """The safety state behind its last block."""
    log_prob: float
    """Sum over the tokens that the search drew."""
    drawn: int
    """How many of its tokens the search drew."""
    ends_safe: float = 1.0
    """The critic's probability that it ends with z > 0; 1 without a critic, and once it has ended."""
    cost_to_go: float = 0.0
    """The critic's expected cost from here to the end; 0 without a critic, and once it has ended."""


def is_broken(branch: Branch, guidance: SearchGuidance) -> bool:
    """Tell whether a number that judges the branch is not finite."""
    # A proposer whose model yields NaN says so in the log-probability, also where the cost model reads texts.
    judged_by = (branch.cost, branch.z, branch.log_prob, branch.ends_safe, branch.cost_to_go)
    return not all(isfinite(number) for number in (*judged_by, value(branch, guidance)))


def is_possible(branch: Branch, guidance: SearchGuidance) -> bool:
    """Tell whether the branch may be kept; one that has ended and is possible may be returned."""
    if is_broken(branch, guidance):
        return False
    unchecked = guidance.parts.final_check == "none" or not branch.ended
    return unchecked or branch.cost < guidance.cost_budget


def is_safe(branch: Branch, guidance: SearchGuidance) -> bool:
    """Tell whether the branch is possible and, by all that is known now, safe."""
    within = branch.z > 0.0 or not guidance.parts.tracks_safety
    return is_possible(branch, guidance) and within and branch.ends_safe > ENDS_SAFE


def value(branch: Branch, guidance: SearchGuidance) -> float:
    """Return what makes one safe branch better than another, lower is better; see `search_parts.Value`."""
    if guidance.parts.value == "cost":
        return branch.cost + branch.cost_to_go
    surprise = -branch.log_prob / max(branch.drawn, 1)
    if guidance.parts.value == "likelihood":
        return surprise
    return surprise + guidance.parts.weight * branch.cost


def select(branches: Sequence[Branch], guidance: SearchGuidance, keep: int) -> list[int]:
    """Return the indices of at most `keep` branches, best first; of equals, the earlier one first."""
    safe = [index for index, branch in enumerate(branches) if is_safe(branch, guidance)]
    if safe:
        return sorted(safe, key=lambda index: value(branches[index], guidance))[:keep]
    possible = [index for index, branch in enumerate(branches) if is_possible(branch, guidance)]
    return sorted(possible, key=lambda index: branches[index].cost)[:keep]
