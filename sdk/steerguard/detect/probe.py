"""What every probe is to the engine: parts that are read in the prefill, and a score that is the sum of what each adds.

A part of a probe is a block and what is read there: the hidden state at the end of the generation prompt, or the
prompt mean. A block may have both parts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerguard.artifacts.probe_params import Over, Part

PROBE_FILE = "weights/probe.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Probe(ABC):
    """A detector that reads hidden states; subclasses say what one part adds to the score."""

    id: str
    blocks: tuple[int, ...]
    """Block of each part."""
    over: tuple[Over, ...]
    """Which hidden state of its block each part reads."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """Block and what is read there, in the order of the weights."""
        return tuple(zip(self.blocks, self.over, strict=True))

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What the score is, for people; a calibration records it."""

    @abstractmethod
    def partial(self, index: int, states: Tensor) -> Tensor:
        """Return the contribution of the i-th part to the score.

        Each row is reduced by itself, so a row's number does not depend on how many rows there are.

        Args:
            index: position in `parts`.
            states: float32 `[rows, width]`, what that part reads.

        Returns:
            float32 `[rows]`; not finite where the states are not.
        """

    @abstractmethod
    def place(self, device: torch.device) -> None:
        """Copy what the probe reads with to a device ahead of its first read there, once.

        A read at a decode step must not copy: the step would wait for the host.
        """

    def score(self, states: Tensor) -> Tensor:
        """Return the score of each row.

        Args:
            states: float32 `[rows, parts, width]`.

        Returns:
            float32 `[rows]`.
        """
        # In the order in which a forward pass meets the parts, because sums of floats depend on it.
        order = sorted(range(len(self.blocks)), key=lambda index: self.blocks[index])
        total = self.partial(order[0], states[:, order[0]])
        for index in order[1:]:
            total = total + self.partial(index, states[:, index])
        return total
