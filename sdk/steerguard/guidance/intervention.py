"""An intervention: one planned change of the residual stream, as data. The engine executes it; a method declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Point = Literal["resid_pre", "resid_post"]
"""Where the change is made: `resid_pre` is the input of the decoder block, `resid_post` its output."""

Positions = Literal["all", "last_prompt_token_and_decode", "decode", "prefill"]
"""Token positions that are changed; padding never counts.

`all`: prompt and generated tokens.
`last_prompt_token_and_decode`: from the end of the generation prompt on.
`decode`: generated tokens that are fed back into the model.
`prefill`: prompt tokens.
"""


ModalityTokens = Literal["include", "exclude"]
"""Whether columns of the prompt that stand for images, sounds or videos are changed as the others are, or left alone."""


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """A position rule: the first generated tokens that are fed back into the model, and no later one."""

    steps: int
    """How many, at least 1; tokens of a prefilled answer do not count, as in the rule `decode`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Token positions said by phase, as `ByPhase` does; a prefilled answer counts as generated."""

    prompt: bool
    last: bool
    decode: bool
    steps: int | None = None
    """How many tokens of the answer `decode` is true of, from its first one; None for all."""


PositionRule = Positions | FirstSteps | Phases
"""Which token positions are changed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """One vector, added at every position of a position rule."""

    vector: Tensor
    """float32 `[width]`; what is added, coefficient and strength included."""
    positions: PositionRule


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ablate:
    """Remove the component along a direction: `h - coefficient * (h . r) r`.

    Reference: Arditi et al., arXiv 2406.11717, section 2.4 (directional ablation).
    """

    direction: Tensor
    """float32 `[width]`, unit length."""
    coefficient: float = 1.0
    """How much of the component is removed; 1.0 removes it all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clamp:
    """Keep the projection on a direction within bounds: `h + (clamp(h . r) - h . r) r`.

    Equal bounds set the projection to that value. A state within the bounds keeps every bit.
    """

    direction: Tensor
    """float32 `[width]`, unit length."""
    at_least: float | None
    """Lower bound of the projection; None for none."""
    at_most: float | None
    """Upper bound of the projection; None for none."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """Apply a low-rank map: `h + U (V^T h) + b`."""

    outputs: Tensor
    """U, float32 `[width, rank]`."""
    inputs: Tensor
    """V, float32 `[width, rank]`."""
    bias: Tensor
    """b, float32 `[width]`."""


Operator = Ablate | Clamp | Affine
"""What is done to a hidden state that depends on the state itself."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Operated:
    """One operator, applied at every position of a position rule."""

    operator: Operator
    positions: Positions | Phases


Schedule = Constant | ByPhase | ByStep | Operated
"""What is done at which position: a vector is added, or an operator applied."""


@dataclass(frozen=True, slots=True)
class VerdictGate:
    """Open where the request's verdict selects the step."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearGate:
    """Open where the verdict selects the step and `weight . h + bias > 0`.

    `h` is the residual stream of the intervention's own block and point at the end of the generation prompt, before
    any intervention at this place changes it. Earlier blocks have acted by then (METHODS A3: one-pass semantics),
    also where the verdict itself was taken in a pass of its own.
    A sum that is not finite refuses a row whose verdict selects the step.
    """

    weight: Tensor
    """float32 `[width]`."""
    bias: float


Gate = VerdictGate | LinearGate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intervention:
    """Change the residual stream at one place, per row where the gate is open.

    Several at one place act one after the other, in the order in which they were declared.
    """

    step: str
    """Id of the guidance entry that declared it."""
    block: int
    """0-based decoder block."""
    schedule: Schedule
    gate: Gate
    point: Point = "resid_post"
    modality_tokens: ModalityTokens = "include"
    """Whether the change is also made at columns that stand for images, sounds or videos."""

    @property
    def source(self) -> str:
        """Name under which the gate of this intervention is read: `<step>/block <n>`, `<step>/input/block <n>`."""
        return (
            f"{self.step}/input/block {self.block}" if self.point == "resid_pre" else f"{self.step}/block {self.block}"
        )
