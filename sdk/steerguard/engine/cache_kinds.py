"""What is known of transformers' caches: which kinds can be emptied, which can be continued, what they hold.

Layer classes are named and not imported, because versions of transformers differ in which they have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from transformers import DynamicCache, StaticCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from steerguard.plan.plan import Plan

GROWING_LAYERS = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"})
"""Layers that hold keys and values column by column; emptied, they are as new."""

FIXED_LAYERS = frozenset({"StaticLayer", "StaticSlidingWindowLayer"})
"""The same, at a number of rows that never changes once they were filled."""

RECURRENT_LAYERS = frozenset({
    "LinearAttentionLayer",
    "LinearAttentionAndFullAttentionLayer",
    "LinearAttentionAndSlidingWindowAttentionLayer",
    "LinearAttentionAndStaticFullAttentionLayer",
    "LinearAttentionAndStaticSlidingWindowAttentionLayer",
})  # fmt: skip
"""Layers whose state is a sum over all columns; they can be emptied, at the same number of rows."""

GROWING_POSITIONS = frozenset({"dynamic", "longrope"})
"""Kinds of rotary positions whose scale depends on the length of the sequence, so that keys of a shorter one differ."""


def unknown_kind(cache: Any) -> str | None:
    """Return in words what is unknown about a cache; None for a cache of a tested kind.

    Args:
        cache: anything that an app passes as `past_key_values`, or a model returns.
    """
    if type(cache) not in (DynamicCache, StaticCache):
        return f"of class `{type(cache).__name__}`"
    if cache.offloading:
        return "that are offloaded"
    unknown = [type(layer).__name__ for layer in cache.layers if not _name(layer)]
    return f"with layers of class `{unknown[0]}`" if unknown else None


def can_be_continued(cache: Any) -> bool:
    """Return whether a prefill behind what a cache holds gives what a prefill of all columns does."""
    return all(_name(layer) in GROWING_LAYERS | FIXED_LAYERS for layer in cache.layers)


def can_be_cropped(cache: Any) -> bool:
    """Return whether the last columns can be taken out of a cache: windows must not have moved on."""
    return all(
        _name(layer) in GROWING_LAYERS and getattr(layer, "sliding_window", _length(layer) + 1) > _length(layer)
        for layer in cache.layers
    )


def crop(cache: Any, columns: int) -> None:
    """Take the last columns out of a cache, in place.

    Args:
        cache: one that can be cropped, if any column is to go.
        columns: how many, at least 0.
    """
    # Also to crop nothing fails where a window has moved on.
    if columns:
        cache.crop(-columns)


def keeps_keys(model: Any, plan: Plan) -> bool:
    """Return whether a model computes the same keys for a token however the sequence goes on.

    Classes that take more than text may number positions by images, and by what an earlier call has left on the model.

    Args:
        model: the wrapped model.
        plan: its plan, which knows what it takes.
    """
    parameters = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    stated = [part for part in (parameters, *parameters.values()) if isinstance(part, Mapping)]
    scaled = any(part.get("rope_type") in GROWING_POSITIONS for part in stated)
    return plan.model.modalities == ("text",) and not scaled


def lengths(cache: Any) -> tuple[int, ...]:
    """Return how many columns each layer has seen; of a layer that does not count them 1 or 0. Waits for the device."""
    return tuple(_length(layer) for layer in cache.layers)


def is_empty(cache: Any) -> bool:
    """Return whether no layer has seen a column."""
    return not any(lengths(cache))


def empty(cache: Any) -> None:
    """Take everything out of a cache, in place."""
    cache.reset()


def fixed_rows(cache: Any) -> int | None:
    """Return the number of rows that a cache is bound to, also when it is empty; None where it takes any."""
    for layer in cache.layers:
        if _name(layer) not in GROWING_LAYERS:
            for state in _states(layer):
                return int(state.shape[0])
    return None


def states(cache: Any) -> tuple[Tensor, ...]:
    """Return every tensor that a cache holds."""
    return tuple(state for layer in cache.layers for state in _states(layer))


def _states(layer: Any) -> Iterator[Tensor]:
    for name in ("keys", "values"):
        state = getattr(layer, name, None)
        if state is not None:
            yield state
    for name in ("conv_states", "recurrent_states"):
        yield from (state for state in getattr(layer, name, {}).values() if state is not None)


def _length(layer: Any) -> int:
    counted = int(layer.get_seq_length()) if hasattr(layer, "get_seq_length") else 0
    return max(counted, int(any(getattr(layer, "has_previous_state", {}).values())))


def _name(layer: Any) -> str | None:
    """Return the class of a layer that was tested; None for others, also if somebody else's class has such a name."""
    name = type(layer).__name__
    known = name in GROWING_LAYERS | FIXED_LAYERS | RECURRENT_LAYERS
    return name if known and type(layer).__module__ == DynamicCache.__module__ else None
