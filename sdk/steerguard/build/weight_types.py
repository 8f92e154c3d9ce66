"""Copies of a model in another floating point type."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch

from steerguard.errors import BuildError

_TYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}


def in_weight_type(model: Any, name: str) -> Any:
    """Return the model itself when its parameters have that type, else a converted copy.

    Only parameters are converted: buffers such as rotary frequencies stay in float32, as they do when a model is
    loaded in that type.

    Args:
        model: a transformers model.
        name: `bfloat16`, `float16` or `float32`.

    Raises:
        BuildError: the type is none of these.
    """
    dtype = _TYPES.get(name)
    if dtype is None:
        raise BuildError("Unknown weight type.", expected=", ".join(_TYPES), found=name)
    if all(parameter.dtype == dtype for parameter in model.parameters()):
        return model
    converted = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.data = parameter.data.to(dtype)
    converted.config.dtype = dtype
    return converted.eval()


def weights_digest(model: Any) -> str:
    """Return `sha256:<hex>` over names, types and bytes of all parameters; caches of build steps are keyed by it."""
    content = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        content.update(f"{name}|{parameter.dtype}|{tuple(parameter.shape)}".encode())
        content.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return f"sha256:{content.hexdigest()}"
