"""Which rows share a batch, and how many: pure functions of lengths and of a measurement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

SMALLEST, LARGEST = 4, 256
GROWTH = 1.10
"""A larger batch must answer so many times as fast as the best one before it."""


TOKENS_PER_ROW = 256
"""A batch of `size` rows holds at most `size` times so many padded prompt tokens: very long prompts go in smaller batches."""


def length_batches(lengths: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    """Put rows of similar length together, the longest first; ties keep their order.

    The longest first, so that a lack of memory shows at once and the time left is not guessed too short.

    Args:
        lengths: tokens of each row.
        size: most rows per batch.

    Returns:
        Indices of rows, batch by batch; every row once.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        fitting = size * TOKENS_PER_ROW // max(lengths[order[start]], 1)
        rows = max(1, min(size, fitting))
        batches.append(tuple(order[start : start + rows]))
        start += rows
    return tuple(batches)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchJob:
    """Some prompts of one set in one run: what is answered together and recorded together."""

    run: str
    set: str
    indices: tuple[int, ...]


def batch_jobs(runs: Sequence[str], batches: Mapping[str, Sequence[tuple[int, ...]]]) -> tuple[BatchJob, ...]:
    """Return all the work of an evaluation in its fixed order: run by run, set by set, batch by batch.

    Every run has the same batches, so that answers can be compared token by token.

    Args:
        runs: names in order.
        batches: by set in order, its batches.
    """
    return tuple(
        BatchJob(run=run, set=name, indices=indices)
        for run in runs
        for name, of_set in batches.items()
        for indices in of_set
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One batch of the search."""

    size: int
    tokens_per_second: float
    bytes_in_use: int
    """Most memory in use so far, with what an evaluation takes beyond the trial; 0 when unknown."""


def choose_batch_size(
    measure: Callable[[int], Trial | None], *, most_rows: int, most_bytes: int | None
) -> tuple[int, tuple[Trial, ...]]:
    """Double the batch until it no longer pays or no longer fits.

    Args:
        measure: answers that many rows; None when the memory did not suffice.
        most_rows: rows of the largest set, at least 1.
        most_bytes: memory that may be in use; None when unknown.

    Returns:
        The size with the highest throughput that fits, and every trial in order.
    """
    trials: list[Trial] = []
    best: Trial | None = None
    size = min(SMALLEST, most_rows)
    while size <= min(LARGEST, most_rows):
        trial = measure(size)
        if trial is None:
            break
        trials.append(trial)
        if best is not None and trial.tokens_per_second < GROWTH * best.tokens_per_second:
            break
        best = trial
        if most_bytes is not None and _next_bytes(trials) > most_bytes:
            break
        size *= 2
    return (best.size if best is not None else 1), tuple(trials)


def _next_bytes(trials: Sequence[Trial]) -> int:
    """Guess the memory of a batch twice as large: the last growth, doubled, on top."""
    if len(trials) < 2:
        return trials[-1].bytes_in_use
    return trials[-1].bytes_in_use + 2 * (trials[-1].bytes_in_use - trials[-2].bytes_in_use)
