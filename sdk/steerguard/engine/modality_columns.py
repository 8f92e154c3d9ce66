"""Which columns of `input_ids` stand for images, sounds or videos; on the device and, independently, on the host.

Some entries leave these columns as they are (`modality_tokens: exclude`), and prompt means leave them out.
A generated token is never one of them, whatever its id: nothing stands behind it. Nor is a token of an answer that is
scored, which counts as generated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from steerguard.errors import UnsupportedPlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.engine.program import Program


def require_modality_ids(program: Program, modality_ids: Sequence[int]) -> None:
    """Refuse to leave columns out that nobody can find.

    Args:
        program: the bound plan.
        modality_ids: ids that stand for images, sounds and videos.

    Raises:
        UnsupportedPlanError: an entry leaves modality tokens out, the model takes more than text, and its configuration
            names no id for anything else.
    """
    if modality_ids or program.plan.model.modalities == ("text",):
        return
    for step in _leaving_out(program):
        raise UnsupportedPlanError(
            f"Guidance entry `{step}` leaves modality tokens out, and the model does not say which they are.",
            expected="an id of a placeholder in the model's configuration, such as `image_token_id`",
            found="none",
            where=f"guidance entry `{step}`: modality_tokens",
            next_step="Write `modality_tokens: include`, or name positions behind the prompt, such as `decode`.",
        )


def text_columns(
    program: Program,
    input_ids: Tensor,
    modality_ids: Sequence[int],
    *,
    scored_behind: Sequence[int | None] | None = None,
) -> Tensor | None:
    """Return bool `[rows, columns]`, False where an image, sound or video stands; None where nobody asks.

    Args:
        program: the bound plan.
        input_ids: int64 `[rows, columns]`, a prompt.
        modality_ids: ids that stand for images, sounds and videos.
        scored_behind: per row the column behind which an answer stands that is scored; None where none is.
    """
    if not modality_ids or not (program.reads_prompt_mean or _leaving_out(program)):
        return None
    device = input_ids.device
    texts = ~torch.isin(input_ids, torch.tensor(modality_ids, device=device))
    if scored_behind is None:
        return texts
    width = input_ids.shape[1]
    ends = torch.tensor([width if end is None else end for end in scored_behind], device=device)
    return texts | (torch.arange(width, device=device) > ends[:, None])


def changeable_columns(
    program: Program,
    attention: list[list[int]],
    prompts: Sequence[Sequence[int]],
    modality_ids: Sequence[int],
    *,
    scored_behind: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return 1 or 0 per row and column: a token of the prompt that stands for text; from the ids alone.

    Args:
        program: the bound plan; where no entry leaves anything out, every token counts.
        attention: 1 or 0 per row and prompt column.
        prompts: token ids of each row, padding left out.
        modality_ids: ids that stand for images, sounds and videos.
        scored_behind: per row the column behind which an answer stands that is scored; None where none is.
    """
    if not _leaving_out(program):
        return attention
    left_out, rows = frozenset(modality_ids), []
    for row, (counts, ids) in enumerate(zip(attention, prompts, strict=True)):
        tokens, last = iter(ids), len(counts) if scored_behind is None else scored_behind[row]
        rows.append(
            [int(counted and (next(tokens) not in left_out or column > last)) for column, counted in enumerate(counts)]
        )
    return rows


def _leaving_out(program: Program) -> list[str]:
    """Return the ids of guidance entries that leave modality tokens out, one for each intervention."""
    return [item.step for item in program.interventions if item.modality_tokens == "exclude"]
