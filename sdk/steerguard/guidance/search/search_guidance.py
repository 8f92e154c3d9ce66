"""What a search method declares: its parts, its cost budget, and who says what an answer costs. The engine executes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from steerguard.critics.cost import CostModel, Critic
    from steerguard.methods.search_parts import SearchParts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchGuidance:
    """One guidance entry that searches, bound to its cost model."""

    step: str
    """Id of the guidance entry that declared it."""
    method: str
    parts: SearchParts
    cost_budget: float
    """d, float32: an answer is within the budget while it costs less, in the cost model's unit."""
    cost_budget_fpr: str | None
    """The share of benign answers that are not within the budget, where it was asked for as a rate."""
    cost: CostModel
    critic: Critic | None
    prompt_cost: Callable[[Sequence[str]], Tensor] | None = None
    """What prompts cost by themselves, float32 `[rows]`; None where no prompt is checked."""
