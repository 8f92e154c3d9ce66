"""Find a batch size by measuring: short batches of typical prompts, doubled while that still pays."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from steerguard.evaluate.answering import GREEDY
from steerguard.evaluate.batches import TOKENS_PER_ROW, Trial, choose_batch_size
from steerguard.evaluate.memory import cache_bytes, lacks_memory
from steerguard.models.chat import pad_batch

MEASURED_TOKENS = 8
"""New tokens per measured answer: enough to weigh the prefill against the steps that follow it."""
MEMORY_SHARE = 0.5
"""Share of the free memory that a batch may take."""


def find_batch_size(
    model: Any, tokenizer: Any, sets: Sequence[Sequence[Sequence[int]]], max_new_tokens: int
) -> tuple[int, tuple[Trial, ...]]:
    """Measure on prompts of middle length and return the size that answers fastest.

    What the longest prompts and the tokens that are not measured will take of the memory is estimated.

    Args:
        model: the model without guidance.
        tokenizer: its tokenizer, for padding.
        sets: token ids of the prompts, set by set.
        max_new_tokens: as in the evaluation.

    Returns:
        Rows per batch, and what was measured on the way.
    """
    lengths = sorted((ids for rows in sets for ids in rows), key=len)
    middle = lengths[len(lengths) // 4 : len(lengths) // 4 + max(len(lengths) // 2, 1)]
    new = min(max_new_tokens, MEASURED_TOKENS)
    # Longer prompts than TOKENS_PER_ROW go in smaller batches, so that is the longest a whole batch has.
    longer = max(min(len(lengths[-1]), TOKENS_PER_ROW) - len(middle[-1]), 0)
    per_row = cache_bytes(model, max_new_tokens - new + longer)

    def answer(size: int, tokens: int) -> None:
        batch = pad_batch(list(islice(cycle(middle), size)), tokenizer, device=model.device)
        with torch.inference_mode():
            model.generate(**batch, max_new_tokens=tokens, min_new_tokens=tokens, **GREEDY)

    def measure(size: int) -> Trial | None:
        start = time.perf_counter()
        try:
            answer(size, new)
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            return None
        seconds = time.perf_counter() - start
        used = _bytes_in_use(model.device) + size * per_row
        return Trial(size=size, tokens_per_second=size * new / seconds, bytes_in_use=used)

    # The first call of a process pays for buffers and caches that no later call does.
    answer(1, 1)
    most_rows = max(len(rows) for rows in sets)
    return choose_batch_size(measure, most_rows=most_rows, most_bytes=_most_bytes(model.device))


def _bytes_in_use(device: torch.device) -> int:
    """Return the most memory that was in use so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _most_bytes(device: torch.device) -> int | None:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _available()
    return None if free is None else _bytes_in_use(device) + int(MEMORY_SHARE * free)


def _available() -> int | None:
    """Return what Linux says is available without swapping; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
