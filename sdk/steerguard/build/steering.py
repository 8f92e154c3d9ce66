"""Raw hooks that add vectors at block outputs while something is built: no plan, no gate, no artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from steerguard.models.blocks import decoder_blocks


@contextmanager
def changed_blocks(model: Any, changes: Mapping[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Put the outputs of decoder blocks through functions; the hooks are gone afterwards.

    Args:
        model: a transformers model.
        changes: decoder block to a function from the residual stream `[rows, tokens, width]` to its replacement.
    """

    def changing(change: Callable[[Tensor], Tensor]) -> Callable[[Any, Any, Any], Any]:
        def hook(_module: Any, _arguments: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        return hook

    modules = decoder_blocks(model)
    handles = []
    try:
        for block, change in changes.items():
            handles.append(modules[block].register_forward_hook(changing(change)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def without_gradients(model: Any) -> Iterator[None]:
    """Ask no gradient of the model's weights, and give each its own setting back."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(requires_grad=False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(requires_grad=True)
