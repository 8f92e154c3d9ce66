"""The cost formula of a plan, in forward tokens and bytes.

A *forward token* is one token position of one row that passes through the decoder once.
The formula is exact given the realised steps; its value for an open row is an upper bound before they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredBlock:
    """One block that one step changes."""

    block: int
    schedule: str = "constant"
    """`constant`, `by_phase` or `by_step`."""
    steps: int | None = None
    """How many generated tokens have a vector of their own; `by_step` only."""

    @property
    def vectors(self) -> int:
        """How many vectors are held for it."""
        return {"constant": 1, "by_phase": 3}.get(self.schedule, 2 + (self.steps or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFormula:
    """What guidance adds to an unguided request of the same shape."""

    passes: Literal[1, 2]
    """1: gates decide inside the prefill that they act in. 2: a probe prefill comes first."""
    hooked_blocks_prefill: int
    """Decoder blocks that are read or changed during prefill."""
    hooked_blocks_open: int
    """Decoder blocks that are changed in a decode step while any row's gate is open; 0 when none is.

    A bound: a block that only a `by_step` schedule changes is left alone after the last step.
    """
    resident_bytes: int
    """Vectors and probes held for as long as the model is wrapped."""
    bytes_per_row: int
    """Steering state held per row of a running request."""

    def extra_forward_tokens(self, prompt_tokens: int, *, opened: bool) -> int:
        """Return the forward tokens of one row beyond those of the unguided request.

        Args:
            prompt_tokens: tokens of the row's prompt, padding not counted.
            opened: whether any gate of the batch opened.
        """
        return prompt_tokens if self.passes == 2 and opened else 0

    def extra_bytes(self, rows: int) -> int:
        """Return the added memory of a request with that many rows."""
        return self.resident_bytes + rows * self.bytes_per_row


def steering_cost(
    *,
    passes: Literal[1, 2],
    reads: tuple[int, ...],
    steered: tuple[SteeredBlock, ...],
    hidden_size: int,
    dtype: str,
) -> CostFormula:
    """Return the cost formula of a plan that only steers.

    Args:
        passes: as in `CostFormula`.
        reads: block of every weight row of detectors and gates; one that is read in two ways stands twice.
        steered: changed blocks, one entry per step and block.
        hidden_size: width of the residual stream.
        dtype: floating point type of the residual stream.
    """
    width = BYTES_PER_ELEMENT.get(dtype, 4)
    blocks = {entry.block for entry in steered}
    return CostFormula(
        passes=passes,
        hooked_blocks_prefill=len(blocks.union(reads)),
        hooked_blocks_open=len(blocks),
        resident_bytes=4 * hidden_size * (len(reads) + sum(entry.vectors for entry in steered)),
        bytes_per_row=width * hidden_size * sum(_states(steered, block) for block in blocks),
    )


def _states(steered: tuple[SteeredBlock, ...], block: int) -> int:
    """Return how many states of one row a block holds: one for what stays the same, one for each step of its own."""
    entries = [entry for entry in steered if entry.block == block]
    steady = any(entry.schedule != "by_step" for entry in entries)
    return int(steady) + max(entry.steps or 0 for entry in entries)
