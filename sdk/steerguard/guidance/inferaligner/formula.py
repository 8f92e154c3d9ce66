"""The mathematics of InferAligner, as pure functions on float32 tensors.

Names follow the paper (arXiv 2401.11206): `srv` is the safety related vector of the target, `ssv` the safety steering
vector of the aligned sibling, both mean differences harmful minus harmless of one block's residual stream at the last
token of the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mean_difference(harmful: Tensor, harmless: Tensor) -> Tensor:
    """Return mean(harmful) - mean(harmless) per block.

    Args:
        harmful: float32 `[n, blocks, width]`.
        harmless: float32 `[m, blocks, width]`.

    Returns:
        float32 `[blocks, width]`, not normalised.
    """
    return harmful.float().mean(dim=0) - harmless.float().mean(dim=0)


def midpoint_bias(srv: Tensor, harmful: Tensor, harmless: Tensor) -> Tensor:
    """Return the gate bias that puts the threshold half way between the class means.

    `b_l = -(mean_harmful(s_l . a_l) + mean_harmless(s_l . a_l)) / 2`, which for balanced classes is minus the mean
    over all calibration prompts (METHODS A2).

    Args:
        srv: float32 `[blocks, width]`, unit length.
        harmful: float32 `[n, blocks, width]`.
        harmless: float32 `[m, blocks, width]`.

    Returns:
        float32 `[blocks]`.
    """
    centre = (harmful.float().mean(dim=0) + harmless.float().mean(dim=0)) / 2
    return -(srv * centre).sum(dim=-1)


def shift(theta: Tensor, *, strength: float, coefficient: float) -> Tensor:
    """Return what is added to the residual stream of an open row: `coefficient * strength * theta`.

    Args:
        theta: float32 `[width]`, raw safety steering vector of one block.
        strength: what coefficient 1.0 stands for, from the artifact.
        coefficient: from the policy.
    """
    return theta.float() * (strength * coefficient)
