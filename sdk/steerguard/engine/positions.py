"""Which token positions a position rule names, from absolute columns; on tensors and, independently, on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerguard.guidance.intervention import Phases

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.guidance.intervention import Positions


def position_mask(positions: Positions, *, prompt_mask: Tensor, ends: Tensor, width: int) -> Tensor:
    """Return the positions that are changed in a forward pass over columns 0 to `width`.

    Args:
        positions: the position rule.
        prompt_mask: bool `[rows, prompt width]`, False at padding.
        ends: int64 `[rows]`, column of the end of the generation prompt.
        width: number of columns, at least the prompt width.

    Returns:
        bool `[rows, width]`.
    """
    columns = torch.arange(width, device=prompt_mask.device).expand(prompt_mask.shape[0], width)
    in_prompt = torch.zeros_like(columns, dtype=torch.bool)
    in_prompt[:, : prompt_mask.shape[1]] = prompt_mask
    generated = columns >= prompt_mask.shape[1]
    if positions == "all":
        return in_prompt | generated
    if positions == "last_prompt_token_and_decode":
        return (in_prompt & (columns >= ends[:, None])) | generated
    if positions == "decode":
        return generated
    return in_prompt


def changes_decode(positions: Positions | Phases) -> bool:
    """Return whether generated tokens are changed when they are fed back."""
    return positions.decode if isinstance(positions, Phases) else positions != "prefill"


def expected_in_rule(positions: Positions | Phases, *, attention: list[int], end: int, fed_back: int) -> int:
    """Return how many positions of one open row must have been changed, from the returned sequence alone.

    Args:
        positions: the position rule.
        attention: 1 or 0 per prompt column.
        end: column of the end of the generation prompt.
        fed_back: generated tokens that went through the model, padding of finished rows included.
    """
    if isinstance(positions, Phases):
        answer = sum(attention[end + 1 :]) + fed_back
        return sum(attention[:end]) * positions.prompt + positions.last + answer * positions.decode
    prompt = sum(attention)
    if positions == "all":
        return prompt + fed_back
    if positions == "last_prompt_token_and_decode":
        return sum(attention[end:]) + fed_back
    if positions == "decode":
        return fed_back
    return prompt
