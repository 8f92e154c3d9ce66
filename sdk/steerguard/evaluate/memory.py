"""A lack of memory while a batch is answered, told from other errors and said with what helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from steerguard.errors import EvaluationError

# What torch says where it has no class of its own: the allocator of CPUs, MPS, and libraries of CUDA.
_SIGNS = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an error, or one that it was raised from, is a failed allocation."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(seen, RuntimeError) and any(sign in str(seen) for sign in _SIGNS):
            return True
        seen = seen.__cause__
    return False


@contextmanager
def memory_for(rows: int, folder: Path, *, begun: bool) -> Iterator[None]:
    """Turn a failed allocation inside the block into an error that says what to do.

    Args:
        rows: of the batch.
        folder: of the evaluation.
        begun: whether rows are recorded already, so that the batch size is settled.

    Raises:
        EvaluationError: the memory did not suffice.
    """
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        if rows == 1:
            step = "Free memory and run the same command again, or use fewer new tokens or shorter prompts."
        elif begun:
            step = (
                "Free memory and run the same command again: it goes on behind the last whole batch. "
                f"Or choose a new folder with --out and --batch-size {rows // 2}."
            )
        else:
            step = f"Run the same command again with --batch-size {rows // 2}."
        raise EvaluationError(
            "The memory does not suffice for a batch.", where=folder, found=f"a batch of {rows} rows", next_step=step
        ) from error


def cache_bytes(model: Any, tokens: int) -> int:
    """Estimate what keys and values of so many tokens take, in bytes; 0 where the configuration does not say.

    Full attention in every block is assumed, so models with sliding windows take less.
    """
    config = model.config.get_text_config(decoder=True)
    blocks = getattr(config, "num_hidden_layers", None)
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "hidden_size", None)
    if not blocks or not heads or not width:
        return 0
    per_head = getattr(config, "head_dim", None) or width // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(2 * blocks * shared * per_head * model.dtype.itemsize * tokens)
