"""When the search of one prompt has ended although beam search goes on: its neighbours keep the whole batch running.

transformers asks one question after every step, for the batch: is anything unfinished? Here each prompt is asked it by
itself, so the answer is the one that the prompt would get alone, by whatever rule the library has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def ended_searches(
    unfinished: Callable[..., Tensor], improvable: Tensor, finished: Tensor, stopped: Tensor, early_stopping: Any
) -> Tensor:
    """Return which prompts' searches have ended; nothing waits for the device.

    Args:
        unfinished: the library's question, `_beam_search_has_unfinished_sequences`.
        improvable: bool `[prompts, 1]`, whether open beams can still beat finished ones.
        finished: bool `[prompts, beams]`, the finished sequences that are kept.
        stopped: bool `[prompts, candidates]`, the candidates of this step that hit a stopping criterion.
        early_stopping: the setting of the call.

    Returns:
        bool `[prompts]`.
    """
    prompts = (slice(row, row + 1) for row in range(improvable.shape[0]))
    return torch.stack([~unfinished(improvable[row], finished[row], stopped[row], early_stopping) for row in prompts])
