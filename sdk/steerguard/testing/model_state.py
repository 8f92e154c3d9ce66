"""Everything that a guarded call must leave as it was, and what differs between two looks at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

HOOK_DICTIONARIES = tuple(name for name in vars(torch.nn.Module()) if name.endswith("_hooks") or "_hooks_" in name)
"""Attributes in which torch keeps the hooks of a module."""


def state_of(model: nn.Module) -> dict[str, Any]:
    """Return class, attributes, hooks, weights, buffers and training flags of a model and its modules.

    Weights are copied, so this is meant for small models.
    """
    return {
        "class": type(model),
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            (name, kind): tuple(getattr(module, kind).values())
            for name, module in model.named_modules()
            for kind in HOOK_DICTIONARIES
        },
        "tensors": {
            name: (id(tensor), tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        },
        "training": {name: module.training for name, module in model.named_modules()},
    }


def state_difference(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """Return in words the first thing that differs between two results of `state_of`; None when nothing does."""
    if before["class"] is not after["class"]:
        return f"the class was {before['class'].__name__} and is {after['class'].__name__}"
    for kind, words in (("hooks", "hooks"), ("attributes", "attributes"), ("tensors", "tensor"), ("training", "mode")):
        one, other = before[kind], after[kind]
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                return f"{words} of {_place(key)}{_counted(one.get(key), other.get(key))}"
    return None


def _place(key: Any) -> str:
    name, *more = key if isinstance(key, tuple) else (key,)
    return " ".join((f"`{name or 'the model'}`", *more))


def _counted(one: Any, other: Any) -> str:
    """Return how many entries there were and are, where that says something."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) != len(other):
        return f": {len(one)} before, {len(other)} after"
    return " changed"
