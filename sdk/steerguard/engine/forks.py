"""Rows of a cache that go several ways: take one row out, fork and reorder rows, go back to an earlier column.

Layers that hold keys and values column by column go back by being cropped. Windows that have moved on and recurrent
states cannot, so what they held is kept where a way back is needed.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from steerguard.engine.cache_kinds import GROWING_LAYERS, states

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

FORKED_LAYERS = GROWING_LAYERS | {
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
}
"""Layers whose rows can go several ways."""

_COLUMNS = ("keys", "values")
_RECURRENT = ("conv_states", "recurrent_states")
_FLAGS = ("has_previous_state", "is_conv_states_initialized", "is_recurrent_states_initialized")


def unforkable(cache: Any) -> str | None:
    """Return in words why the rows of a cache cannot go several ways; None where they can."""
    if type(cache) is not DynamicCache:
        return f"a cache of class `{type(cache).__name__}`"
    if cache.offloading:
        return "a cache that is offloaded"
    home = DynamicCache.__module__
    unknown = [
        type(layer).__name__
        for layer in cache.layers
        if type(layer).__name__ not in FORKED_LAYERS or type(layer).__module__ != home
    ]
    return f"a cache with layers of class `{unknown[0]}`" if unknown else None


def row_of(cache: Any, row: int) -> Any:
    """Return one row of a cache as a cache of its own; the original stays as it is."""
    taken = copy.copy(cache)
    taken.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in taken.layers:
        for name in _FLAGS:
            if hasattr(layer, name):
                setattr(layer, name, dict(getattr(layer, name)))
        # Recurrent states are written in place.
        _set(layer, {name: _cloned(_part(value, slice(row, row + 1))) for name, value in _states(layer).items()})
    return taken


def fork(cache: Any, rows: Tensor, copies: Tensor) -> None:
    """Make the rows of a cache, in place, copies of some of them.

    Args:
        cache: the cache.
        rows: int64 `[prefixes]`, the row of each prefix.
        copies: int64 `[new rows]`, of which prefix each new row is a copy; every prefix has one.

    Raises:
        OutOfMemoryError: the cache holds one row for each prefix then, in order.
    """
    done = 0
    try:
        for layer in cache.layers:
            _select(layer, rows[copies])
            done += 1
    except torch.OutOfMemoryError:
        first = torch.stack([torch.nonzero(copies == prefix)[0, 0] for prefix in range(len(rows))])
        for number, layer in enumerate(cache.layers):
            _select(layer, first if number < done else rows)
        raise


class Mark:
    """A place in a cache that its rows can go back to, any number of times.

    Args:
        cache: the cache, as it is now.
    """

    def __init__(self, cache: Any) -> None:
        self._layers = [_marked(layer) for layer in cache.layers]

    @property
    def bytes(self) -> int:
        """What it keeps alive beside the cache, in bytes; 0 where every layer goes back by being cropped."""
        return sum(_bytes(value) for held in self._layers for value in held.values())

    def row(self, row: int) -> Mark:
        """Return the mark for one row of the cache."""
        taken = copy.copy(self)
        taken._layers = [  # noqa: SLF001 - of this class
            {name: _part(value, slice(row, row + 1)) for name, value in held.items()} for held in self._layers
        ]
        return taken

    def restore(self, cache: Any) -> None:
        """Take everything out of a cache that came behind the mark, in place, also where a pass broke off half way.

        Args:
            cache: a cache that grew from the marked one, its rows as they were.
        """
        for layer, held in zip(cache.layers, self._layers, strict=True):
            _set(layer, {name: _cloned(value) for name, value in held.items() if name != "length"})
            length = held.get("length")
            if length is not None:
                _set(layer, {name: getattr(layer, name)[..., :length, :] for name in _COLUMNS})


def kept_bytes(cache: Any) -> int:
    """Return how many bytes the states of a cache take."""
    return sum(state.numel() * state.element_size() for state in states(cache))


def _bytes(value: Any) -> int:
    """Return how many bytes a tensor takes, or every tensor in a dictionary; 0 for everything else."""
    if isinstance(value, dict):
        return sum(_bytes(part) for part in value.values())
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0


def _marked(layer: Any) -> dict[str, Any]:
    """Return what brings a layer back to where it is now."""
    held: dict[str, Any] = {name: _cloned(value) for name, value in _states(layer).items() if name in _RECURRENT}
    if "has_previous_state" in vars(layer):
        held["has_previous_state"] = dict(layer.has_previous_state)
    if getattr(layer, "is_sliding", False):
        # Every column makes new tensors, so these stay as they are.
        held |= {name: getattr(layer, name, None) for name in _COLUMNS}
        held["cumulative_length"] = layer.cumulative_length
    elif _filled(layer):
        held["length"] = layer.keys.shape[-2]
    return held


def _filled(layer: Any) -> bool:
    keys = getattr(layer, "keys", None)
    return keys is not None and keys.numel() > 0


def _states(layer: Any) -> dict[str, Any]:
    """Return the tensors of a layer by attribute; those of recurrent layers by number within it."""
    found = {name: getattr(layer, name) for name in _COLUMNS} if _filled(layer) else {}
    return found | {name: getattr(layer, name) for name in _RECURRENT if hasattr(layer, name)}


def _select(layer: Any, rows: Tensor) -> None:
    """Keep some rows of a layer; it has them all or, where memory runs out, none of them."""
    _set(layer, {name: _part(value, rows) for name, value in _states(layer).items()})


def _part(value: Any, rows: Tensor | slice) -> Any:
    """Return some rows of a tensor, or of every tensor in a dictionary; everything else as it is."""
    if isinstance(value, dict):
        return {key: _part(part, rows) for key, part in value.items()}
    if not isinstance(value, torch.Tensor) or not value.dim():
        return value
    return value[rows] if isinstance(rows, slice) else value.index_select(0, rows.to(value.device))


def _cloned(value: Any) -> Any:
    """Return dictionaries of tensors with copies in them; what is not written in place stays shared."""
    if isinstance(value, dict):
        return {key: part.clone() if isinstance(part, torch.Tensor) else part for key, part in value.items()}
    return value


def _set(layer: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(layer, name, value)
