"""Bounds on a score: the score itself, or a false-positive rate that an artifact's calibration turns into one."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from steerguard.methods.section import Section


def decimal_text(number: float) -> str:
    """Return the shortest decimal string without exponent that reads back as the same float.

    `1e-05` becomes `0.00001`, `2.0` stays `2.0`, and negative zero becomes `0.0`.
    """
    text = format(Decimal(repr(number or 0.0)), "f")
    return text if "." in text else f"{text}.0"


class RawBound(Section):
    """A bound on the score or cost itself."""

    value: Annotated[float, Field(ge=-1e6, le=1e6, json_schema_extra={"x-unit": "the unit of the score or cost"})]
    """The score that is compared with, in the unit of the detector or cost model; it changes meaning with the artifact version."""

    @property
    def fpr(self) -> None:
        """None: a raw bound has no calibrated rate."""
        return


class CalibratedBound(Section):
    """A bound stated as a false-positive rate and resolved from the artifact's calibration."""

    fpr: Annotated[
        float,
        Field(gt=0.0, lt=1.0, json_schema_extra={"x-unit": "share of benign prompts or answers at or above the bound"}),
    ]
    """Calibrated false-positive rate; the smallest one possible is 1/(n + 1) for n benign calibration prompts or answers."""

    @property
    def value(self) -> None:
        """None: the artifact's calibration decides."""
        return

    @property
    def fpr_text(self) -> str:
        """The rate as a decimal string, for example `0.02`."""
        return decimal_text(self.fpr)


def _kind_of_bound(bound: Any) -> str | None:
    if isinstance(bound, RawBound):
        return "value"
    if isinstance(bound, CalibratedBound):
        return "fpr"
    if not isinstance(bound, dict):
        return None
    return next((name for name in ("fpr", "value") if name in bound), None)


Bound = Annotated[
    Annotated[RawBound, Tag("value")] | Annotated[CalibratedBound, Tag("fpr")],
    Discriminator(_kind_of_bound),
]
"""`{value: x}` or `{fpr: x}`."""
