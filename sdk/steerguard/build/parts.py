"""What a build produced before it is written: tensors, settings, calibration, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steerguard.artifacts.calibration import Calibration


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedSettings:
    """A table of settings that the build compared."""

    id: str
    """Key in `benchmarks.json`."""
    title: str
    """Heading in the card."""
    text: str
    """What was compared, on what, and by which rule one was chosen."""
    columns: Mapping[str, str]
    """Key of a row to heading in the card."""
    rows: tuple[Mapping[str, Any], ...]
    """One row per setting: JSON without floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactParts:
    """The content of one artifact without its binding to the model."""

    method: str
    features: tuple[str, ...]
    """What the reader must be able to do."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """Tensors by file path, then by name."""
    params: Mapping[str, Any]
    """Settings of the method: JSON without floats."""
    how_made: tuple[str, ...]
    """Sentences for the card, generated from what was done."""
    limits: tuple[str, ...]
    """Sentences for the card."""
    figures: tuple[Mapping[str, Any], ...]
    """Figures that the build itself measured; the same shape as those of `benchmarks/effect.py`."""
    compared: tuple[ComparedSettings, ...] = ()
    """Tables of what a search compared."""
    calibration: Calibration | None = None
    manifest_extra: Mapping[str, Any] = field(default_factory=dict)
    """Optional manifest fields of this type of artifact."""
