"""The guarantees of the engine by number, and the error that says which one does not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerguard.errors import ConformanceError
from steerguard.testing.watched_run import differing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

GUARANTEES = {
    1: "neutral is identity",
    2: "one verdict per row",
    3: "a batch of one is a batch of many, and a cache changes nothing",
    4: "no trace",
    6: "what is said to act acts",
    7: "the cost is as stated",
    8: "what is not finite is refused",
}
"""Guarantees that are tried, by their number; 5 is about the device and belongs to the engine alone."""

_RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-4}
_HALF_PRECISION = 5e-2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far numbers may differ between two batches of other shapes, which round differently even without a guard."""

    relative: float
    """Of the largest number that is compared."""

    @classmethod
    def of(cls, dtype: torch.dtype) -> Tolerance:
        """Return what rounding explains in a type."""
        return cls(relative=_RELATIVE.get(dtype, _HALF_PRECISION))

    def around(self, numbers: Iterable[float]) -> float:
        """Return the greatest difference that rounding explains."""
        return self.relative * (1.0 + max((abs(number) for number in numbers), default=0.0))

    def agree(self, one: Tensor, other: Tensor) -> bool:
        """Return whether two tensors agree; what is infinite in both does."""
        finite = torch.isfinite(one) & torch.isfinite(other)
        if not torch.equal(torch.isfinite(one), torch.isfinite(other)):
            return False
        limit = self.around([float(one[finite].abs().max())] if bool(finite.any()) else [])
        # Rounding adds up from block to block.
        return bool(((one - other)[finite].abs() <= 10 * limit).all())


ACTS_OUTSIDE = "Look for code of the method that acts outside the interventions that it declares."


def broken(
    number: int, what: str, *, expected: object, found: object, where: object, next_step: str = ACTS_OUTSIDE
) -> ConformanceError:
    """Return the error for a guarantee that does not hold."""
    return ConformanceError(
        f"Guarantee {number}, {GUARANTEES[number]}, does not hold: {what}.",
        expected=expected,
        found=found,
        where=where,
        next_step=next_step,
    )


def require_same_rows(
    number: int, rows: Sequence[int], one: Sequence[Tensor], other: Sequence[Tensor], *, atol: float, what: str
) -> None:
    """Require that rows have the same logits in every step of two runs, bit by bit or within a tolerance.

    Raises:
        ConformanceError: names the first row and step that differ.
    """
    if len(one) != len(other):
        raise broken(number, what, expected=f"{len(one)} steps", found=f"{len(other)} steps", where="the whole batch")
    for step, (first, second) in enumerate(zip(one, other, strict=True)):
        for row in rows:
            if not bool(differing(first[row], second[row])):
                continue
            distance = float(torch.nan_to_num(first[row] - second[row]).abs().max())
            if distance <= atol and atol > 0.0:
                continue
            raise broken(
                number,
                what,
                expected="the bits of the unguided run" if atol == 0.0 else f"the unguided run within {atol}",
                found=f"logits that differ by up to {distance:.3g}",
                where=f"row {row}, step {step}",
            )
