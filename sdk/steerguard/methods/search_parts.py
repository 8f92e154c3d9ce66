"""The parts that a search over candidates is made of, as data. Several methods are one loop with other parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Start = Literal["lazy", "always"]
"""When the search begins.

`lazy`: answer as usual, and search from the last safe block only if the answer is not within the cost budget.
`always`: search from the first block.
"""

FinalCheck = Literal["cost_model", "none"]
"""What the finished answer is checked with.

`cost_model`: an answer that is not within the cost budget by the cost model is never returned.
`none`: the best candidate is returned, whatever it costs.
"""

Draw = Literal["sample", "top"]
"""Where candidates come from.

`sample`: drawn with the sampling settings of the call.
`top`: the most likely next tokens, each once; blocks of one token only.
"""

Value = Literal["cost", "likelihood", "lagrangian"]
"""What makes one safe candidate better than another; lower is better in each.

`cost`: its cost so far; with a critic, plus the expected cost-to-go.
`likelihood`: minus the mean log-probability of its tokens.
`lagrangian`: minus the mean log-probability, plus `weight` times the cost.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchParts:
    """One search, method aside."""

    candidates: int
    """N: how many continuations are drawn for each block."""
    block_tokens: int | None
    """Tokens of a block; None: the whole answer is one block."""
    keep: int
    """K: how many candidates go on."""
    retries: int
    """M: how often a block is drawn again when no candidate is safe."""
    start: Start
    final_check: FinalCheck
    value: Value
    tracks_safety: bool
    """Whether candidates whose safety state is used up lose to all others at every block."""
    checks_prompt: bool = False
    """Whether the prompt alone must be within the cost budget, or the row is refused before its first token."""
    uses_critic: bool = False
    """Whether a critic filters and values unfinished candidates."""
    discount: float = 1.0
    """gamma of the safety state; its clock is the block."""
    weight: float = 0.0
    """lambda of the value `lagrangian`, per unit of cost."""
    draw: Draw = "sample"
    temperature: float = 0.7
    """At which candidates are drawn where the call itself is greedy."""
    avoid_penalty: float = 5.0
    """Subtracted, on a retry, from the logits of tokens that failed candidates of this block hold."""
