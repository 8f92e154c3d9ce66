"""The mathematics of InferAligner, as pure functions on tensors; builds and the runtime share it.

Names follow the paper (arXiv 2401.11206): `srv` is the safety related vector of the target, `ssv` the safety steering
vector of the aligned sibling, both mean differences harmful minus harmless of one block's residual stream at the last
token of the prompt. Per block l

    srv_l   = mean over harmful of h_l - mean over harmless of h_l      (target model)
    ssv_l   = the same difference in the aligned sibling ("donor")
    theta_l = ssv_l - srv_l                                            (what alignment adds to the difference)
    b_l     = -(mean over both classes of h_l) . s_l,  s_l = srv_l / |srv_l|

The paper adds `ssv_l`; on small models it is nearly parallel to `srv_l` and says only "this is harmful", so the
part that the target already has is subtracted. Means are accumulated in float64: residual streams have outlier
dimensions whose sums lose digits in lower precision. What is returned is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_difference(harmful: Tensor, harmless: Tensor) -> Tensor:
    """Return mean(harmful) - mean(harmless) per block, not normalised, float32 `[blocks, width]`.

    Args:
        harmful: residuals `[n, blocks, width]` of harmful prompts.
        harmless: residuals `[m, blocks, width]` of harmless prompts.
    """
    return (harmful.double().mean(dim=0) - harmless.double().mean(dim=0)).float()


def unit_rows(rows: Tensor) -> Tensor:
    """Return the rows scaled to Euclidean length 1, float32; a row of zeros stays zero."""
    lengths = rows.double().norm(dim=-1, keepdim=True)
    return torch.where(lengths > 0, rows.double() / lengths.clamp_min(torch.finfo(torch.float64).tiny), 0.0).float()


def midpoint_bias(srv: Tensor, harmful: Tensor, harmless: Tensor) -> Tensor:
    """Return the gate bias that puts the threshold half way between the class means, float32 `[blocks]`.

    `b_l = -(mean_harmful(s_l . a_l) + mean_harmless(s_l . a_l)) / 2`, which for balanced classes is minus the mean
    over all calibration prompts (METHODS A2).

    Args:
        srv: unit rows `[blocks, width]`.
        harmful: residuals `[n, blocks, width]`.
        harmless: residuals `[m, blocks, width]`.
    """
    centre = (harmful.double().mean(dim=0) + harmless.double().mean(dim=0)) / 2
    return -(centre * srv.double()).sum(dim=-1).float()


def alignment_difference(ssv: Tensor, srv: Tensor, blocks: tuple[int, ...]) -> Tensor:
    """Return theta = ssv - srv on the steered blocks and zero rows elsewhere, float32 `[num_blocks, width]`.

    Args:
        ssv: donor's harmful-minus-harmless difference `[num_blocks, width]`.
        srv: target's difference `[num_blocks, width]`, raw, not unit.
        blocks: the steered blocks, 0-based.
    """
    theta = torch.zeros_like(srv, dtype=torch.float32)
    chosen = list(blocks)
    theta[chosen] = (ssv.double()[chosen] - srv.double()[chosen]).float()
    return theta
