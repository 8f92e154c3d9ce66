"""What a decoding loop hands to the model beside its tokens, for rows that are taken out, forked and grown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    Inputs = dict[str, Any]

BY_COLUMN = frozenset({"attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids"})
"""Inputs with one entry per column; the last dimension is that of columns."""

LOOP_ARGUMENTS = ("synced_gpus", "streamer")
"""What a decoding loop is given beside the inputs of the model."""

CACHES = ("past_key_values", "cache_params")
"""What model classes call their cache; models without attention have the second."""


def decode_inputs(loop_arguments: Mapping[str, Any], row: int) -> tuple[Inputs, str, Any]:
    """Return what decode steps of one row are given: no images, no sounds, which only the prefill reads.

    Args:
        loop_arguments: what the loop was called with beside tokens.
        row: the row.

    Returns:
        The inputs, the name of the cache among them, and the cache of all rows.
    """
    name = next((name for name in CACHES if loop_arguments.get(name) is not None), CACHES[0])
    inputs = {
        key: value
        for key, value in loop_arguments.items()
        if key not in (*LOOP_ARGUMENTS, *CACHES) and (key in BY_COLUMN or not isinstance(value, torch.Tensor))
    }
    return rows_of(inputs, torch.tensor([row])), name, loop_arguments.get(name)


def rows_of(inputs: Inputs, rows: Tensor) -> Inputs:
    """Return the inputs of some rows, in the order given; a row may be named several times."""
    return {
        name: value.index_select(_row_dimension(value), rows.to(value.device)) if _by_column(name, value) else value
        for name, value in inputs.items()
    }


def columns_of(inputs: Inputs, columns: int) -> Inputs:
    """Return the inputs of the first columns."""
    return {name: value[..., :columns] if _by_column(name, value) else value for name, value in inputs.items()}


def _by_column(name: str, value: Any) -> bool:
    return name in BY_COLUMN and isinstance(value, torch.Tensor)


def _row_dimension(value: Tensor) -> int:
    # Positions of some classes have further dimensions in front.
    return value.dim() - 2
