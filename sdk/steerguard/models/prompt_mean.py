"""The prompt mean: the mean hidden state over a row's prompt, in the one form that builds and guards share.

The first tokens of a text draw attention whatever it says (Xiao et al., arXiv 2309.17453), and their hidden states are
orders of magnitude larger than all others (Sun et al., arXiv 2402.17762), so the mean begins behind them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

SKIPPED_TOKENS = 4
"""How many tokens at the beginning of every prompt the mean leaves out."""


def prompt_mean_mask(prompt_mask: Tensor, ends: Tensor) -> Tensor:
    """Return the columns that the mean is over: from the fifth token through the end of the generation prompt.

    Args:
        prompt_mask: bool `[rows, columns]`, False at padding, on either side.
        ends: int64 `[rows]`, column of the end of the generation prompt; a prefilled answer lies behind it.

    Returns:
        bool `[rows, columns]`, on the device of the mask; nothing waits for that device.
    """
    # The number of a token in its row does not depend on the side of the padding.
    numbers = prompt_mask.cumsum(dim=1)
    columns = torch.arange(prompt_mask.shape[1], device=prompt_mask.device)
    return prompt_mask & (numbers > SKIPPED_TOKENS) & (columns <= ends[:, None])


def prompt_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the mean hidden state of each row.

    A row without any position has no mean and yields NaN, which no verdict accepts: such a row is refused.

    Args:
        hidden: `[rows, columns, width]`; what stands outside the mask does not matter, not even NaN.
        mask: bool `[rows, columns]` from `prompt_mean_mask`, on the same device.

    Returns:
        float32 `[rows, width]`, summed in float32.
    """
    return prompt_sum(hidden, mask) / mask.sum(dim=1, keepdim=True)


def prompt_sum(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the sum that the mean is made of, over the columns given; arguments and result as of `prompt_mean`."""
    counted = hidden.masked_fill(~mask[:, :, None], 0.0)
    return counted.sum(dim=1, dtype=torch.float32)
