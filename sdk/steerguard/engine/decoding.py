"""The hooks of decode steps with a cache: at each place what its open interventions do, laid out before the first step."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from steerguard.engine.hooks import adding_hook, changing_hook, passing_order, stepping_hook
from steerguard.engine.program import place_of
from steerguard.engine.schedules import steady_vector
from steerguard.engine.stages import Stage, adding_stage, operating_stage
from steerguard.guidance.intervention import Intervention, Operated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.engine.additions import Additions
    from steerguard.engine.hooks import Hook, Place
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.intervention import Operator


@dataclass(slots=True, kw_only=True, eq=False)
class DecodeHooks:
    """What is laid out for the decode steps of one request."""

    hooks: dict[Place, Hook] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    """After how many passes a hook has nothing left to do; absent where it always has."""


@dataclass(frozen=True, slots=True, eq=False)
class AddedPart:
    """Additions that follow one another at one place."""

    deltas: Sequence[Tensor]
    """`[rows, 1, width]` for each of the first steps, negative zero where a row gets nothing."""
    rest: Tensor | None
    """What later steps add; None for nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class OperatedPart:
    """One operator at one place."""

    operator: Operator
    gate: Tensor
    """bool `[rows]`."""


DecodePart = AddedPart | OperatedPart


def decode_hooks(
    request: GuidedRequest,
    lasting: Sequence[Intervention],
    additions: Additions,
    *,
    outputs: Mapping[Place, Tensor],
    passes: dict[Place, int],
    most_passes: int | None,
) -> DecodeHooks:
    """Return the hooks of the decode steps.

    Args:
        request: the request, its gates known.
        lasting: interventions that change generated tokens of some row, in declared order.
        additions: what each of them does.
        outputs: empty tensors `[0, width]` with the device and type of each place's hidden states.
        passes: counted by the hooks, by place.
        most_passes: how many decode passes can come at most; None where that is not known.
    """
    result, measured = DecodeHooks(), False
    for place, items in at_places(lasting).items():
        parts = decode_parts(request, items, additions, like=outputs[place], most_passes=most_passes)
        parts = [part for part in parts if isinstance(part, OperatedPart) or part.deltas or part.rest is not None]
        only = parts[0] if len(parts) == 1 else None
        if isinstance(only, AddedPart) and not any(isinstance(item.schedule, Operated) for item in items):
            deltas, rest = only.deltas, only.rest
            if rest is None:
                result.ends[place] = len(deltas)
            if isinstance(place, int):
                result.hooks[place] = (
                    stepping_hook(request, place, deltas, rest, passes)
                    if deltas or rest is None
                    else adding_hook(request, place, rest, passes, measures=not measured)
                )
                measured = measured or not deltas
                continue
        if parts:
            result.hooks[place] = changing_hook(request, place, [_stage(part) for part in parts], passes)
    return result


def at_places(items: Sequence[Intervention]) -> dict[Place, list[Intervention]]:
    """Return interventions by place, in the order in which a pass meets the places."""
    places = sorted({place_of(item) for item in items}, key=passing_order)
    return {place: [item for item in items if place_of(item) == place] for place in places}


def decode_parts(
    request: GuidedRequest,
    items: Sequence[Intervention],
    additions: Additions,
    *,
    like: Tensor,
    most_passes: int | None,
) -> list[DecodePart]:
    """Return what decode steps do at one place, part by part: additions that follow one another are one part.

    Args:
        request: the request, its gates known.
        items: the interventions of the place, in declared order.
        additions: what each of them does.
        like: tells device, type and width of the hidden states: `[..., width]`.
        most_passes: how many decode passes can come at most; None where that is not known.
    """
    parts: list[DecodePart] = []
    for operates, group in groupby(items, key=lambda item: isinstance(item.schedule, Operated)):
        if operates:
            parts += [_operated(request, item, additions, like) for item in group]
        else:
            gates = {item: request.gates[item] for item in group}
            parts.append(AddedPart(*_added(gates, additions, like, most_passes)))
    return parts


def _operated(request: GuidedRequest, item: Intervention, additions: Additions, like: Tensor) -> OperatedPart:
    assert isinstance(item.schedule, Operated)
    operator = additions.operator(item, item.schedule, like.device)
    return OperatedPart(operator, request.gates[item].to(like.device))


def _stage(part: DecodePart) -> Stage:
    if isinstance(part, AddedPart):
        return adding_stage(part.deltas, part.rest)
    return operating_stage(part.operator, part.gate)


def _added(
    gates: Mapping[Intervention, Tensor], additions: Additions, like: Tensor, most_passes: int | None
) -> tuple[Sequence[Tensor], Tensor | None]:
    """Return what is added in each of the first steps, and in all later ones."""
    is_steady = any(steady_vector(item.schedule) is not None for item in gates)
    rest = additions.steady(gates, like) if is_steady else None
    passes = max(additions.passes_left(item, gate) for item, gate in gates.items())
    if most_passes is not None:
        passes = min(passes, most_passes)
    return (additions.stepped(gates, like, passes=passes) if passes > 0 else ()), rest
