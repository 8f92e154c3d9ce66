"""Operators on the residual stream as pure tensor functions: what becomes of hidden states, whoever is to get it.

Every function computes in float32 and returns the device and type of `hidden`; no function waits for the device.
Each state is changed by itself, so a row's numbers do not depend on its neighbours.
The caller selects which positions of which rows get the result.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from steerguard.errors import ArtifactFormatError
from steerguard.guidance.intervention import Ablate, Affine, Clamp

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.guidance.intervention import Operator

UNIT_TOLERANCE = 1e-3
"""How far the length of a direction may be from 1; it is normalised in float32 where it is made."""


def ablate(hidden: Tensor, direction: Tensor, coefficient: float) -> Tensor:
    """Return `h - coefficient * (h . r) r`.

    Args:
        hidden: `[..., width]`, any floating point type.
        direction: r, float32 `[width]`, unit length, on the same device.
        coefficient: how much of the component is removed.
    """
    wide = hidden.float()
    projection = (wide * direction).sum(dim=-1, keepdim=True)
    return (wide - coefficient * projection * direction).to(hidden.dtype)


def clamp(hidden: Tensor, direction: Tensor, at_least: float | None, at_most: float | None) -> Tensor:
    """Return `h + (clamp(h . r) - h . r) r`; states within the bounds keep every bit.

    Args:
        hidden: `[..., width]`, any floating point type.
        direction: r, float32 `[width]`, unit length, on the same device.
        at_least: lower bound of the projection; None for none.
        at_most: upper bound of the projection; None for none.
    """
    wide = hidden.float()
    projection = (wide * direction).sum(dim=-1, keepdim=True)
    missing = projection.clamp(min=at_least, max=at_most) - projection
    return torch.where(missing == 0, hidden, (wide + missing * direction).to(hidden.dtype))


def affine(hidden: Tensor, outputs: Tensor, inputs: Tensor, bias: Tensor) -> Tensor:
    """Return `h + U (V^T h) + b`.

    Args:
        hidden: `[..., width]`, any floating point type.
        outputs: U, float32 `[width, rank]`, on the same device.
        inputs: V, float32 `[width, rank]`, on the same device.
        bias: b, float32 `[width]`, on the same device.
    """
    # Mixed precision would round the products of matrices, and only those.
    with torch.autocast(hidden.device.type, enabled=False):
        wide = hidden.float()
        return (wide + (wide @ inputs) @ outputs.T + bias).to(hidden.dtype)


def apply_operator(operator: Operator, hidden: Tensor) -> Tensor:
    """Return what an operator makes of hidden states, its tensors being on their device.

    Args:
        operator: from `on_device`.
        hidden: `[..., width]`.
    """
    if isinstance(operator, Ablate):
        return ablate(hidden, operator.direction, operator.coefficient)
    if isinstance(operator, Clamp):
        return clamp(hidden, operator.direction, operator.at_least, operator.at_most)
    return affine(hidden, operator.outputs, operator.inputs, operator.bias)


def on_device(operator: Operator, device: torch.device) -> Operator:
    """Return the operator with float32 tensors on a device."""
    if isinstance(operator, Ablate):
        return Ablate(direction=_moved(operator.direction, device), coefficient=operator.coefficient)
    if isinstance(operator, Clamp):
        return Clamp(direction=_moved(operator.direction, device), at_least=operator.at_least, at_most=operator.at_most)
    return Affine(
        outputs=_moved(operator.outputs, device),
        inputs=_moved(operator.inputs, device),
        bias=_moved(operator.bias, device),
    )


def check_operator(operator: Operator, *, width: int, where: str) -> None:
    """Refuse an operator whose tensors would broadcast to something else, or whose numbers mean nothing.

    Args:
        operator: as a method declared it.
        width: of the residual stream.
        where: names the intervention in errors.

    Raises:
        ArtifactFormatError: names what is wrong.
    """
    if isinstance(operator, Affine):
        rank = operator.inputs.shape[-1]
        tensors = {"outputs": operator.outputs, "inputs": operator.inputs, "bias": operator.bias}
        shapes = {"outputs": (width, rank), "inputs": (width, rank), "bias": (width,)}
        numbers: tuple[float, ...] = ()
    else:
        tensors, shapes = {"direction": operator.direction}, {"direction": (width,)}
        numbers = (
            (operator.coefficient,)
            if isinstance(operator, Ablate)
            else tuple(bound for bound in (operator.at_least, operator.at_most) if bound is not None)
        )
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != shapes:
        raise _malformed("a tensor of another shape than the model asks for", shapes, found, where)
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    if not finite or not all(math.isfinite(number) for number in numbers):
        raise _malformed("numbers that are not finite", "finite numbers", "others", where)
    if isinstance(operator, Affine):
        return
    length = float(operator.direction.float().norm())
    if abs(length - 1.0) > UNIT_TOLERANCE:
        raise _malformed("a direction that is not of unit length", "length 1", f"{length:.6g}", where)
    if isinstance(operator, Clamp) and (not numbers or numbers != tuple(sorted(numbers))):
        raise _malformed(
            "bounds that hold no projection", "a lower bound, an upper one above it, or both", numbers, where
        )


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device=device, dtype=torch.float32)


def _malformed(what: str, expected: object, found: object, where: str) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"An operator has {what}.",
        expected=expected,
        found=found,
        where=where,
        next_step="Rebuild the artifact with `steerguard build`.",
    )
