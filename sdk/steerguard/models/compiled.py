"""Whether a part of a model goes through `torch.compile`: hooks that are installed later do not run there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def compiled_part(model: nn.Module) -> str | None:
    """Return the name of the first module with a compiled forward pass, the class of the model for itself, or None.

    It finds `module.compile()`, a module inside `torch.compile(module)` and `module.forward = torch.compile(...)`.
    """
    for name, module in model.named_modules():
        state = vars(module)
        compiled = state.get("_compiled_call_impl") or getattr(state.get("forward"), "_torchdynamo_orig_callable", None)
        # `torch.compile(module)` is a container that calls what it holds `_orig_mod`.
        if compiled is not None or "_orig_mod" in state["_modules"]:
            return name or type(model).__name__
    return None
