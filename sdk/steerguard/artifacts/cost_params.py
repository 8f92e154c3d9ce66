"""What `params` of a cost model state: the blocks that it reads, its unit, its threshold and the depth of its head.

An artifact of type `critic` carries the cost model that it was made for, and states the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Literal

from steerguard.artifacts.calibration import float32_text, to_float32
from steerguard.errors import ArtifactFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steerguard.artifacts.manifest import ArtifactManifest

COST_METHOD = "response_states"
"""Method of a cost model that reads the generator's own residual stream."""

CRITIC_METHOD = "safety_value"
"""Method of a critic with such a cost model in it."""

COST_FEATURE = "cost.response_states"
"""What both require."""

COST_TYPES = ("cost_model", "critic")
"""Types of artifacts that hold a cost model."""

COST_FILE = "weights/cost.safetensors"
"""File that holds the tensors of the cost model."""

UNIT = "log-odds"
"""Unit of the costs that `steerguard build` makes."""

Layers = Literal[1, 2]
"""Layers of the head: a weighted sum, or one hidden layer with ReLU in front of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostParams:
    """What a cost model reads, and what its numbers mean."""

    blocks: tuple[int, ...]
    """Decoder blocks in the order of the weights, each once; the mean over the answer's tokens of `resid_post` is read."""
    unit: str
    """Unit of a cost, for people."""
    threshold: float
    """A cost from which on an answer is called harmful, a float32 value; a policy may set another budget."""
    layers: Layers
    """Layers of the head."""


def cost_params(manifest: ArtifactManifest) -> CostParams:
    """Return what the cost model of an artifact states.

    Raises:
        ArtifactFormatError: the artifact holds no cost model of states, or a parameter is not what it may state.
    """
    if manifest.type not in COST_TYPES or COST_FEATURE not in manifest.requires.features:
        raise ArtifactFormatError(
            f"Artifact {manifest.reference} holds no cost model that reads states.",
            expected=f"type {' or '.join(COST_TYPES)} that requires {COST_FEATURE}",
            found=f"type {manifest.type} that requires {', '.join(manifest.requires.features)}",
            where="manifest.json: type, requires.features",
            next_step="Name an artifact that was built from a recipe of type cost_model or critic.",
        )
    params = manifest.params
    _stated(params, "read", "answer")
    _stated(params, "reduce", "mean")
    unit = params.get("unit")
    if not isinstance(unit, str) or not unit.strip():
        raise _malformed("unit", "a text that names the unit of a cost", unit)
    return CostParams(
        blocks=_blocks(params, manifest.base.num_blocks),
        unit=unit,
        threshold=_threshold(params),
        layers=_layers(params),
    )


def response_state_params(
    blocks: Sequence[int], *, threshold: float, layers: Layers, unit: str = UNIT
) -> dict[str, Any]:
    """Return the `params` of a cost model: the inverse of `cost_params`.

    Args:
        blocks: in the order of its weights.
        threshold: a finite number; rounded to float32.
        layers: of its head.
        unit: of its costs.
    """
    return {
        "blocks": list(blocks),
        "read": "answer",
        "reduce": "mean",
        "unit": unit,
        "threshold": float32_text(to_float32(threshold)),
        "layers": layers,
    }


def _blocks(params: Mapping[str, Any], num_blocks: int) -> tuple[int, ...]:
    blocks = params.get("blocks")
    if (
        not isinstance(blocks, list | tuple)
        or not blocks
        or any(type(block) is not int or not 0 <= block < num_blocks for block in blocks)
        or len(set(blocks)) != len(blocks)
    ):
        raise _malformed("blocks", f"one or more decoder blocks, each once, from 0 to {num_blocks - 1}", blocks)
    return tuple(blocks)


def _threshold(params: Mapping[str, Any]) -> float:
    text = params.get("threshold")
    try:
        value = to_float32(float(Decimal(text))) if isinstance(text, str) else math.nan
    except InvalidOperation:
        value = math.nan
    if not math.isfinite(value):
        raise _malformed("threshold", "a decimal string of a finite float32 value", text)
    return value


def _layers(params: Mapping[str, Any]) -> Layers:
    layers = params.get("layers")
    if type(layers) is int:
        if layers == 1:
            return 1
        if layers == 2:
            return 2
    raise _malformed("layers", "1 or 2", layers)


def _stated(params: Mapping[str, Any], name: str, known: str) -> None:
    if params.get(name) != known:
        raise _malformed(name, f"`{known}`", params.get(name))


def _malformed(name: str, expected: str, found: object) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"The artifact's parameter `{name}` is not what a cost model may state.",
        expected=expected,
        found=repr(found)[:80],
        where=f"manifest.json: params.{name}",
        next_step="Upgrade steerguard, or use another version of the artifact.",
    )
