"""Figures that `benchmarks/effect.py` wrote: read strictly, and chosen for one artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerguard.errors import BuildError

DecimalText = Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]


class Figure(BaseModel):
    """One measured number with the sample that it came from."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    id: Annotated[str, Field(pattern=r"^[a-z0-9_.]+$")]
    families: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Artifact families that the figure says something about."""
    title: str
    set: str
    """What was measured on, with the split."""
    value: DecimalText
    n: Annotated[int, Field(ge=1)]
    count: int | None = None
    rate: DecimalText | None = None
    wilson_low: DecimalText | None = None
    wilson_high: DecimalText | None = None


class EffectReport(BaseModel):
    """All figures of one run of `benchmarks/effect.py`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    command: str
    model: str
    weights: str
    max_new_tokens: int
    policy: str
    figures: Annotated[tuple[Figure, ...], Field(strict=False)]
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()


def effect_of(path: Path, family: str) -> dict[str, Any]:
    """Return the report of a file, with the figures of one family only, as JSON data.

    Raises:
        BuildError: the file cannot be read or is not such a report.
    """
    try:
        report = EffectReport.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        found = error.errors()[0]["loc"] if isinstance(error, ValidationError) else type(error).__name__
        raise BuildError(
            "The figures cannot be read.",
            where=path,
            expected="a file written by benchmarks/effect.py",
            found=found,
        ) from error
    data = report.model_dump(mode="json", exclude_none=True)
    chosen = [figure for figure in data["figures"] if family in figure["families"]]
    return {**data, "figures": [{key: figure[key] for key in figure if key != "families"} for figure in chosen]}
