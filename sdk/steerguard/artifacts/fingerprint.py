"""The functional identity of a model: residual directions that fixed prompts leave in a few late blocks.

Shapes, tokenizers and templates agree between a model and its fine-tuned, merged or quantised descendants; directions do
not. Measured on SmolLM2-135M-Instruct: bfloat16 against float32 at most 1e-4, int8 at most 4e-4, a small LoRA at least
3e-3, a re-trained donor at least 1e-2, int4 at least 3e-2 (DESIGN section 6); norms alone do not separate these.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import torch
from torch import Tensor

from steerguard.artifacts.manifest import FingerprintEntry
from steerguard.artifacts.verify import VerifiedArtifact
from steerguard.errors import ArtifactFormatError, IncompatibleModelError

PROMPTS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Explain in two sentences how rain forms."},),
    ({"role": "user", "content": "Write a short poem about a lighthouse at dawn."},),
    ({"role": "user", "content": "What is 17 times 24? Show each step."},),
    (
        {"role": "system", "content": "You answer politely and briefly."},
        {"role": "user", "content": "Give me three tips for repotting a house plant."},
    ),
)
"""The fixed chats; recorded fingerprints depend on them, so they only change together with the format version."""

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fingerprint:
    """Unit residual directions at the end of the generation prompt of each fixed chat."""

    blocks: tuple[int, ...]
    """Decoder blocks whose output was read, ascending."""
    directions: Tensor
    """Float32 on the CPU, shape (prompts, blocks, width), each row of unit length."""


def recorded_fingerprint(artifact: VerifiedArtifact, entry: FingerprintEntry) -> Fingerprint:
    """Return the fingerprint that a verified artifact holds for one kind of weights.

    Raises:
        ArtifactFormatError: the stored directions are not of unit length.
    """
    directions = artifact.tensors[entry.file]["directions"]
    deviation = float((directions.double().norm(dim=-1) - 1.0).abs().max())
    if deviation > _UNIT_TOLERANCE:
        raise ArtifactFormatError(
            "The directions of a fingerprint are not of unit length.",
            where=f"{entry.file}: directions",
            expected=f"norms within {_UNIT_TOLERANCE} of 1",
            found=f"off by {deviation:.3g}",
        )
    return Fingerprint(blocks=entry.blocks, directions=directions)


def distance(left: Fingerprint, right: Fingerprint) -> float:
    """Return the largest 1 - cos over prompts and blocks: between 0 and 2, or infinity where a value is not finite.

    Raises:
        IncompatibleModelError: the fingerprints read other blocks, prompts or widths.
    """
    if left.blocks != right.blocks or left.directions.shape != right.directions.shape:
        raise IncompatibleModelError(
            "Two fingerprints that read other places cannot be compared.",
            expected=f"blocks {list(left.blocks)}, shape {list(left.directions.shape)}",
            found=f"blocks {list(right.blocks)}, shape {list(right.directions.shape)}",
        )
    # For unit vectors 1 - cos = |a - b|^2 / 2, which keeps its digits where 1 - a.b cancels.
    units = [torch.nn.functional.normalize(one.directions.double(), dim=-1) for one in (left, right)]
    gaps = (units[0] - units[1]).square().sum(dim=-1) / 2
    return float(gaps.max()) if bool(torch.isfinite(gaps).all()) else float("inf")


def check_fingerprint(recorded: Fingerprint, measured: Fingerprint, limit: Decimal | float | str) -> float:
    """Refuse a model whose residual directions are not those that the artifact was made on.

    Args:
        recorded: from the artifact.
        measured: from the model, on the same prompts and blocks.
        limit: largest accepted 1 - cos.

    Returns:
        The distance.

    Raises:
        IncompatibleModelError: the distance exceeds the limit, or is not finite.
    """
    found = distance(recorded, measured)
    if not found <= float(limit):
        raise IncompatibleModelError(
            "The weights of this model are not those that the artifact was made on.",
            where="fingerprint",
            expected=f"1 - cos at most {limit}",
            found=f"{found:.3g}",
            next_step="Load the original weights, or build a variant for these (fine-tuned, merged or quantised) ones: "
            "steerguard build <recipe> --model <model folder> --out <folder>",
        )
    return found
