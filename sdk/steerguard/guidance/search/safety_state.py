"""The safety state z: what is left of the cost budget. Safe means z > 0, everywhere.

Source: InferenceGuard, arXiv 2502.01208, section 3. The clock is the block:

    z_0 = d,   z_{k+1} = (z_k - C_{k+1}) / gamma,   C_k = cost(answer up to block k) - cost(answer up to block k - 1)

where nothing said costs 0. With gamma = 1, z_k = d - cost. All numbers are in the cost model's unit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def next_state(z: float, block_cost: float, *, discount: float) -> float:
    """Return z behind one more block.

    Args:
        z: before the block.
        block_cost: what the block adds to the cost; negative where it makes the answer less harmful.
        discount: gamma, in (0, 1].
    """
    return (z - block_cost) / discount


def state_after(budget: float, block_costs: Sequence[float], *, discount: float) -> float:
    """Return z behind all blocks in closed form: `z_k = gamma^-k (d - sum over j < k of gamma^j C_{j+1})`.

    Args:
        budget: d.
        block_costs: C_1 to C_k, what each block adds to the cost.
        discount: gamma, in (0, 1].
    """
    spent = sum(discount**block * cost for block, cost in enumerate(block_costs))
    return float((budget - spent) / discount ** len(block_costs))
