"""A failed allocation is told from other errors, and the cache is estimated from the configuration."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import shared_model

from steerguard.evaluate.memory import cache_bytes, lacks_memory


def raised_from(cause):
    error = ValueError("wrapped")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (raised_from(MemoryError()), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_failed_allocations_are_a_lack_of_memory(error, expected):
    assert lacks_memory(error) is expected


def test_a_real_failed_allocation_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert lacks_memory(caught.value)


def test_the_cache_is_as_large_as_the_one_that_the_model_makes():
    model = shared_model()
    with torch.inference_mode():
        cache = model(torch.ones(2, 7, dtype=torch.long), use_cache=True).past_key_values
    made = sum(part.nbytes for layer in cache.layers for part in (layer.keys, layer.values))
    assert cache_bytes(model, 2 * 7) == made
