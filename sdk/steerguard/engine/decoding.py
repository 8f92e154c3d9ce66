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


@dataclass(slots=True, kw_only=True, eq=False)
class DecodeHooks:
    """What is laid out for the decode steps of one request."""

    hooks: dict[Place, Hook] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    """After how many passes a hook has nothing left to do; absent where it always has."""


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
    for place in sorted({place_of(item) for item in lasting}, key=passing_order):
        items = [item for item in lasting if place_of(item) == place]
        like = outputs[place]
        stages: list[Stage] = []
        for operates, group in groupby(items, key=lambda item: isinstance(item.schedule, Operated)):
            if operates:
                stages += [_operating(request, item, additions, like) for item in group]
                continue
            gates = {item: request.gates[item] for item in group}
            deltas, rest = _added(gates, additions, like, most_passes)
            if not deltas and rest is None:
                continue
            if len(gates) == len(items):
                # Nothing but additions here.
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
            stages.append(adding_stage(deltas, rest))
        if stages:
            result.hooks[place] = changing_hook(request, place, stages, passes)
    return result


def _operating(request: GuidedRequest, item: Intervention, additions: Additions, like: Tensor) -> Stage:
    assert isinstance(item.schedule, Operated)
    operator = additions.operator(item, item.schedule, like.device)
    return operating_stage(operator, request.gates[item].to(like.device))


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
