"""The cost formula of a plan, in forward tokens and bytes.

A *forward token* is one token position of one row that passes through the decoder once.
The formula is exact given the realised steps; its value for an open row is an upper bound before they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WATCH_BYTES = 24
"""What one step that reads answers keeps of a row: score of the prompt's parts, score, best score, its token as int64,
and four flags."""
COUNT_BYTES = 8
"""How many tokens the mean of an answer's states is over, as int64."""
BYTES_PER_ELEMENT = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeredBlock:
    """One block that one step changes at one point."""

    block: int
    point: str = "resid_post"
    """`resid_pre` for its input, `resid_post` for its output."""
    operator: str = "add"
    """`add`, `ablate`, `clamp` or `affine`."""
    rank: int | None = None
    """Rank of the map; `affine` only."""
    schedule: str = "constant"
    """`constant`, `by_phase` or `by_step`."""
    steps: int | None = None
    """How many generated tokens have a vector of their own; `by_step` only."""
    first_steps: int | None = None
    """How many generated tokens get a constant vector; None for all that its positions name."""

    @property
    def vectors(self) -> int:
        """How many vectors are held for it."""
        if self.operator != "add":
            return 2 * (self.rank or 0) + 1
        return {"constant": 1, "by_phase": 3}.get(self.schedule, 2 + (self.steps or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFormula:
    """What guidance adds to an unguided request of the same shape."""

    passes: Literal[1, 2]
    """1: gates decide inside the prefill that they act in. 2: a pass that only reads comes first, for every prompt."""
    hooked_blocks_prefill: int
    """Decoder blocks that are read or changed during prefill."""
    hooked_blocks_open: int
    """Decoder blocks that are changed in a decode step while any row's gate is open; 0 when none is.

    A bound: a block that only a `by_step` schedule or `first_steps` changes is left alone after the last step.
    """
    hooked_blocks_reading: int
    """Decoder blocks that are read in every decode step while the answer of any row is watched or searched for."""
    resident_bytes: int
    """Vectors, probes, cost models and critics held for as long as the model is wrapped."""
    bytes_per_row: int
    """Steering state held per row of a running request; what candidates of a search hold is in `search_cost.py`."""

    def extra_forward_tokens(self, prompt_tokens: int, *, extra_passes: int | None = None) -> int:
        """Return the forward tokens of one row beyond those of the unguided request.

        Args:
            prompt_tokens: tokens of the row's prompt, padding not counted.
            extra_passes: how many passes over the prompt were made before its prefill; None for as many as the plan
                makes of a prompt that is prefilled at once.
        """
        return prompt_tokens * (self.passes - 1 if extra_passes is None else extra_passes)

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
    answer_reads: tuple[tuple[int, ...], ...] = (),
    kept_reads: int = 0,
    opened_late: int = 0,
    search_reads: tuple[tuple[int, ...], ...] = (),
    held_bytes: int = 0,
) -> CostFormula:
    """Return the cost formula of a plan; what a search draws comes on top, see `search_cost.py`.

    Args:
        passes: as in `CostFormula`.
        reads: block of every weight row of detectors and gates; one that is read in two ways stands twice.
        steered: changed places, one entry per step, block and point.
        hidden_size: width of the residual stream.
        dtype: floating point type of the residual stream.
        answer_reads: for each step that reads answers, the blocks that it reads at generated tokens.
        kept_reads: how many earlier reads of its answer a row keeps, over all such steps.
        opened_late: blocks changed by steps that open while an answer is written.
        search_reads: for each step that searches, the blocks that its cost model reads.
        held_bytes: bytes of the cost models and critics of all searches.
    """
    width = BYTES_PER_ELEMENT.get(dtype, 4)
    blocks = {entry.block for entry in steered}
    places = {(entry.block, entry.point) for entry in steered}
    return CostFormula(
        passes=passes,
        hooked_blocks_prefill=len(blocks.union(reads)),
        hooked_blocks_open=len(blocks),
        hooked_blocks_reading=len({block for reads_of in answer_reads + search_reads for block in reads_of}),
        resident_bytes=4 * hidden_size * (len(reads) + sum(entry.vectors for entry in steered)) + held_bytes,
        bytes_per_row=width * hidden_size * (sum(_states(steered, *place) for place in places) + opened_late)
        + WATCH_BYTES * len(answer_reads)
        + 4 * kept_reads
        + sum(state_bytes(hidden_size, len(reads_of)) for reads_of in search_reads),
    )


def state_bytes(hidden_size: int, read_blocks: int) -> int:
    """Return the bytes of what a cost model and a critic read of one answer: means, newest states, and their count.

    Args:
        hidden_size: width of the residual stream.
        read_blocks: decoder blocks that are read.
    """
    return 2 * 4 * hidden_size * read_blocks + COUNT_BYTES if read_blocks else 0


def _states(steered: tuple[SteeredBlock, ...], block: int, point: str) -> int:
    """Return how many states of one row a place holds: one for what stays the same, one for each step of its own.

    Where no step has a vector of its own, steps that get the same share a state, one for each end of `first_steps`.
    An operator works on the state that passes and holds none.
    """
    entries = [entry for entry in steered if (entry.block, entry.point) == (block, point) and entry.operator == "add"]
    steady = any(entry.schedule != "by_step" and entry.first_steps is None for entry in entries)
    ends = {entry.first_steps for entry in entries if entry.first_steps is not None}
    stepped = max((entry.steps or 0 for entry in entries), default=0)
    return int(steady) + (max(stepped, *ends, 0) if stepped else len(ends))
