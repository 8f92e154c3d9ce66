"""A cheap sign that a model's modules or weights were exchanged since they were checked."""

from __future__ import annotations

from typing import Any

from torch import nn


def weights_token(model: nn.Module) -> int:
    """Return a number that changes when modules or parameters are replaced, moved, cast or edited in place.

    It reads no weight and takes well under a millisecond for a few hundred modules; of adapters (PEFT) it reads all,
    because they are switched, scaled and swapped without a trace in torch.
    Edits of other weights through `.data` leave no trace either, and are not noticed.
    """
    modules = tuple(id(module) for module in model.modules())
    weights = tuple(
        (
            # An offloaded weight is another object after every pass.
            0 if weight.is_meta else id(weight),
            weight.data_ptr(),
            weight.dtype,
            weight.device,
            0 if weight.is_inference() else weight._version,  # noqa: SLF001 - torch's only edit counter
        )
        for weight in model.parameters()
    )
    adapters = tuple(_adapter(module) for module in model.modules() if "_active_adapter" in vars(module))
    return hash((modules, weights, adapters))


def _adapter(layer: nn.Module) -> tuple[Any, ...]:
    """Return which adapters of one layer are on, how strongly, and what their weights add up to."""
    switches = ("_active_adapter", "_disable_adapters", "merged_adapters", "scaling")
    parts = (getattr(layer, name, None) for name in getattr(layer, "adapter_layer_names", ()))
    sums = (
        float(weight.detach().double().sum())
        for part in parts
        if isinstance(part, nn.Module)
        for weight in part.parameters()
        if weight.device.type != "meta"
    )
    return (*(repr(vars(layer).get(name)) for name in switches), *sums)
