"""An intervention: one planned change of the residual stream, as data. The engine executes it; a method declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Point = Literal["resid_post"]
"""Where the change is made: `resid_post` is the output of the decoder block."""

Positions = Literal["all", "last_prompt_token_and_decode", "decode", "prefill"]
"""Token positions that are changed; padding never counts.

`all`: prompt and generated tokens.
`last_prompt_token_and_decode`: from the end of the generation prompt on.
`decode`: generated tokens that are fed back into the model.
`prefill`: prompt tokens.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """One vector, added at every position of a position rule."""

    vector: Tensor
    """float32 `[width]`; what is added, coefficient and strength included."""
    positions: Positions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByPhase:
    """One vector for each phase, float32 `[width]`; None adds nothing and counts no position."""

    prompt: Tensor | None
    """For tokens before the end of the generation prompt."""
    last: Tensor | None
    """For the end of the generation prompt: the position at which the verdict is read."""
    decode: Tensor | None
    """For every generated token that the model reads; a prefilled answer counts as generated."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByStep:
    """One vector for each of the first generated tokens, float32 `[width]`; None adds nothing and counts no position."""

    prompt: Tensor | None
    """For tokens before the end of the generation prompt."""
    last: Tensor | None
    """For the end of the generation prompt: the position at which the verdict is read."""
    steps: tuple[Tensor | None, ...]
    """For generated token t, at the position where the model reads it; nothing is added to later ones.

    The tokens of a prefilled answer come first, row by row.
    """


Schedule = Constant | ByPhase | ByStep
"""Which vector is added at which position."""


@dataclass(frozen=True, slots=True)
class VerdictGate:
    """Open where the request's verdict selects the step."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearGate:
    """Open where the verdict selects the step and `weight . h + bias > 0`.

    `h` is the residual stream of the intervention's own block and point at the end of the generation prompt, before
    this intervention changes it. Earlier blocks have acted by then (METHODS A3: one-pass semantics).
    A sum that is not finite refuses a row whose verdict selects the step.
    """

    weight: Tensor
    """float32 `[width]`."""
    bias: float


Gate = VerdictGate | LinearGate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intervention:
    """Add vectors to the residual stream of one block, per row where the gate is open."""

    step: str
    """Id of the guidance entry that declared it."""
    block: int
    """0-based decoder block."""
    schedule: Schedule
    gate: Gate
    point: Point = "resid_post"

    @property
    def source(self) -> str:
        """Name under which the gate of this intervention is read: `<step>/block <n>`."""
        return f"{self.step}/block {self.block}"
