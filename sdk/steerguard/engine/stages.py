"""What one decode step does at one place, as a chain of functions; none of them waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from steerguard.engine.operators import apply_operator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from steerguard.guidance.intervention import Operator

Stage = Callable[[int, "Tensor"], "Tensor"]
"""From the number of the step and hidden states `[rows, 1, width]` to hidden states of the same shape."""


def adding_stage(deltas: Sequence[Tensor], rest: Tensor | None) -> Stage:
    """Return the stage that adds; closed rows keep every bit, because negative zero is added there.

    Args:
        deltas: `[rows, 1, width]` for each of the first steps.
        rest: what later steps add; None for nothing.
    """
    ending = len(deltas)

    def add(step: int, hidden: Tensor) -> Tensor:
        delta = deltas[step] if step < ending else rest
        return hidden if delta is None else hidden + delta

    return add


def operating_stage(operator: Operator, gate: Tensor) -> Stage:
    """Return the stage that applies an operator; closed rows keep every bit by selection.

    Args:
        operator: its tensors are on the device of the hidden states.
        gate: bool `[rows]`, on the same device.
    """
    selected = gate[:, None, None]

    def operate(_step: int, hidden: Tensor) -> Tensor:
        return torch.where(selected, apply_operator(operator, hidden), hidden)

    return operate
