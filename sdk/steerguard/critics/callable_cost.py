"""A cost model that is a Python callable: any judge that turns prompts and answers into numbers."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steerguard.critics.cost import CostInputs
from steerguard.critics.judged_texts import check_finite, judged_rows, translated
from steerguard.errors import CostModelError

Judge = Callable[[Sequence[str], Sequence[str]], Any]
"""From prompts and answers, one each per row, to as many numbers: a sequence, an array or a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallableCost:
    """Asks a callable for the cost of each answer; higher is more harmful.

    The callable is called once per batch, with the answers that are not empty.

    Raises:
        CostModelError: when it is made without a name or unit, with a threshold that is not finite, or with something
            that cannot be called plainly.
    """

    name: str
    """For messages and records."""
    unit: str
    """What the number is, for people, such as `probability of harm`."""
    threshold: float
    """An answer is within the budget strictly below this, unless a policy says otherwise; in `unit`."""
    judge: Judge

    @property
    def blocks(self) -> tuple[int, ...]:
        """Empty: it reads texts."""
        return ()

    def __post_init__(self) -> None:
        judge: object = self.judge
        plain = callable(judge) and not inspect.iscoroutinefunction(judge)
        finite = _is_real(self.threshold) and math.isfinite(self.threshold)
        if not (plain and finite and self.name and self.unit):
            raise CostModelError(
                "This is not a cost model.",
                expected="a name, a unit, a finite threshold, and a plain (not async) callable (prompts, answers) -> numbers",
                found=f"name {self.name!r}, unit {self.unit!r}, threshold {self.threshold!r}, {type(self.judge).__name__}",
                where="CallableCost",
                next_step="Give all four.",
            )

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer.

        Returns:
            float32 `[rows]` on the CPU; `nan` for an empty answer.

        Raises:
            CostModelError: the callable raised, or returned another number of values, values that are no real numbers,
                or values that are not finite in float32.
        """
        rows = judged_rows(inputs, name=self.name)
        costs = torch.full((len(inputs.answers),), torch.nan, dtype=torch.float32, device="cpu")
        if not rows:
            return costs
        with translated(self.name):
            returned = self.judge([inputs.prompts[row] for row in rows], [inputs.answers[row] for row in rows])
        found = self._numbers(returned, len(rows))
        check_finite(found, name=self.name)
        costs[torch.tensor(rows, device="cpu")] = found
        return costs

    def _numbers(self, returned: Any, count: int) -> Tensor:
        # Arrays and tensors become lists first, so that one rule holds for all.
        with translated(self.name):
            values = returned.tolist() if hasattr(returned, "tolist") else returned
            values = (
                list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes | dict) else None
            )
        if values is None:
            raise self._wrong("a sequence of numbers", type(returned).__name__)
        if len(values) != count:
            raise self._wrong(f"{count} numbers", f"{len(values)}")
        kinds = {type(value).__name__ for value in values if not _is_real(value)}
        if kinds:
            raise self._wrong("real numbers", ", ".join(sorted(kinds)))
        # Through float64: what does not fit float32 becomes infinite there, and is refused as such.
        return torch.tensor([_as_float(value) for value in values], dtype=torch.float64, device="cpu").float()

    def _wrong(self, expected: str, found: str) -> CostModelError:
        return CostModelError(
            "A cost model returned something else than one number per answer.",
            expected=expected,
            found=found,
            where=f"cost model `{self.name}`",
            next_step="Return one real number per answer, in the order of the answers.",
        )


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_real(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
