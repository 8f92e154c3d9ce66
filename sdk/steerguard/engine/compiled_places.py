"""What compiled code may read of a guard: tensors, and a few values that its guards compare before every pass.

Compiled code cannot ask a context variable, and by default it does not notice that a hook came or went. So its hooks
stand at fixed places from `wrap` to `unwrap`, and everything that changes reaches them through an attribute of the
decoder block: torch compares types, names, numbers and shapes found there before it runs what it compiled, and
compiles anew where they differ.

The same hooks act in a decode step that runs uncompiled; there they ask the context variable as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from steerguard.engine.active import ACTIVE
from steerguard.engine.hooks import BlockInput, entering, replaced_input
from steerguard.engine.operators import apply_operator

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerguard.engine.hooks import Place
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.intervention import Operator

Passage = Literal["closed", "plain", "guided"]
"""What a compiled pass may do now: nothing, run as without a guard, or run guided."""

TRACED = "_steerguard_traced"
"""Attribute of the wrapped model and of its first decoder block: the state that compiled code reads."""
BEHIND, BEFORE = "_steerguard_behind", "_steerguard_before"
"""Attributes of a decoder block: the places at its output and at its input."""


class TracedState:
    """What compiled code reads of one wrapped model beside tensors.

    Attributes:
        layout: names the places, so that two models with hooks at other places share no compiled code.
        passage: set for the length of one pass, under the lock of the executor.
        request: whose decode steps run now; uncompiled code asks for it.
        seen: positions per row that the places of the current pass have changed so far, all places together.
        count: int64 scalar on the device: the same for all passes of a generation.
    """

    __slots__ = ("count", "layout", "passage", "request", "seen")

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.passage: Passage = "closed"
        self.request: GuidedRequest | None = None
        self.seen = 0
        self.count: Tensor | None = None

    @property
    def acts_here(self) -> bool:
        """Whether the request of the calling thread is the one whose decode steps run; for uncompiled code."""
        return self.request is not None and ACTIVE.get() is self.request


class CompiledPlace:
    """One place where decode steps may change something.

    Attributes:
        state: of the wrapped model.
        stages: what is done there, one after the other.
        is_last: whether a pass meets no place behind it.
    """

    __slots__ = ("is_last", "stages", "state")

    def __init__(self, state: TracedState, *, is_last: bool) -> None:
        self.state = state
        self.is_last = is_last
        self.stages: tuple[Adding | Operating, ...] = ()


class Adding:
    """Adds one tensor `[rows, 1, width]`; negative zero in closed rows, so that they keep every bit."""

    __slots__ = ("delta",)

    def __init__(self, delta: Tensor) -> None:
        self.delta = delta

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return hidden states `[rows, 1, width]` with the tensor added."""
        return hidden + self.delta


class Operating:
    """Applies an operator to open rows; closed ones keep every bit by selection."""

    __slots__ = ("gate", "operator")

    def __init__(self, operator: Operator, gate: Tensor) -> None:
        self.operator = operator
        self.gate = gate

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return hidden states `[rows, 1, width]` with the operator applied; the gate is bool `[rows]`."""
        return torch.where(self.gate[:, None, None], apply_operator(self.operator, hidden), hidden)


def attribute_of(place: Place) -> str:
    """Return the attribute of a decoder block that holds a place of it."""
    return BEFORE if isinstance(place, BlockInput) else BEHIND


def behind_block(module: nn.Module, _arguments: Any, output: Any) -> Any:
    """Change the output of a block; the one hook of all places behind blocks."""
    place: CompiledPlace = getattr(module, BEHIND)
    if not _acts(place.state):
        return None
    return (_changed(place, output[0]), *output[1:]) if isinstance(output, tuple) else _changed(place, output)


def before_block(module: nn.Module, arguments: Any, named_arguments: Any) -> Any:
    """Change the input of a block; the one hook of all places in front of blocks."""
    place: CompiledPlace = getattr(module, BEFORE)
    if not _acts(place.state):
        return None
    hidden = _changed(place, entering(arguments, named_arguments))
    return replaced_input(hidden, arguments, named_arguments)


def _acts(state: TracedState) -> bool:
    if torch.compiler.is_compiling():
        return state.passage == "guided"
    return state.acts_here


def _changed(place: CompiledPlace, hidden: Tensor) -> Tensor:
    state = place.state
    # A number while torch traces, so that a pass pays for one addition on the device, however many places it has. A
    # place that is missing in the graph is missing in the sum, and without the last one there is no sum.
    state.seen += hidden.shape[1]
    if place.is_last:
        if state.count is not None:
            state.count.add_(state.seen)
        state.seen = 0
    for stage in place.stages:
        hidden = stage(hidden)
    return hidden
