"""Which token positions a position rule names, from absolute columns; on tensors and, independently, on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerguard.guidance.intervention import FirstSteps, Phases

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.guidance.intervention import PositionRule, Positions


def position_mask(positions: Positions | FirstSteps, *, prompt_mask: Tensor, ends: Tensor, width: int) -> Tensor:
    """Return the positions that are changed in a forward pass over columns 0 to `width`.

    Args:
        positions: a position rule that is not said by phase.
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
    if isinstance(positions, FirstSteps):
        return generated & (columns < prompt_mask.shape[1] + positions.steps)
    if positions == "all":
        return in_prompt | generated
    if positions == "last_prompt_token_and_decode":
        return (in_prompt & (columns >= ends[:, None])) | generated
    if positions == "decode":
        return generated
    return in_prompt


def changes_decode(positions: PositionRule) -> bool:
    """Return whether generated tokens are changed when they are fed back, be it only the first of them."""
    return positions.decode if isinstance(positions, Phases) else positions != "prefill"


def stops_early(positions: PositionRule) -> bool:
    """Return whether only the first tokens of an answer are changed."""
    return isinstance(positions, FirstSteps) or (isinstance(positions, Phases) and positions.steps is not None)


def expected_in_rule(
    positions: PositionRule, *, attention: list[int], end: int, fed_back: int, changeable: list[int] | None = None
) -> int:
    """Return how many positions of one open row must have been changed, from the returned sequence alone.

    Args:
        positions: the position rule.
        attention: 1 or 0 per prompt column.
        end: column of the end of the generation prompt.
        fed_back: generated tokens that went through the model, padding of finished rows included.
        changeable: 1 or 0 per prompt column, 0 at padding and where nothing may be changed; None for `attention`.
    """
    spared = attention if changeable is None else changeable
    if isinstance(positions, Phases):
        answer = answer_columns(attention, end=end, fed_back=fed_back, changeable=spared)[: positions.steps]
        return sum(spared[:end]) * positions.prompt + spared[end] * positions.last + sum(answer) * positions.decode
    if isinstance(positions, FirstSteps):
        return min(fed_back, positions.steps)
    if positions == "all":
        return sum(spared) + fed_back
    if positions == "last_prompt_token_and_decode":
        return sum(spared[end:]) + fed_back
    if positions == "decode":
        return fed_back
    return sum(spared)


def answer_columns(attention: list[int], *, end: int, fed_back: int, changeable: list[int]) -> list[int]:
    """Return 1 or 0 for each token of an answer, prefilled or generated, in order: whether it may be changed.

    Args:
        attention: 1 or 0 per prompt column.
        end: column of the end of the generation prompt; the answer begins behind it.
        fed_back: generated tokens that went through the model.
        changeable: 1 or 0 per prompt column.
    """
    behind = zip(attention[end + 1 :], changeable[end + 1 :], strict=True)
    return [free for counts, free in behind if counts] + [1] * fed_back
