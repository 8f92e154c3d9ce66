"""Tiny models under interventions made by hand: any operator, any point, any gate, several at one place."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import torch
from tests.guarded_models import guarded, policy

from steerguard.engine.program import arranged_program
from steerguard.guidance.intervention import Ablate, Affine, Clamp, Constant, Intervention, Operated, VerdictGate

WIDTH = 32
OPERATORS = ("add", "ablate", "clamp", "affine")
POINTS = ("resid_pre", "resid_post")


def vector(seed=0, length=1.0, width=WIDTH):
    """A random vector of this length."""
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm() * length


def matrix(seed=0, rank=3, width=WIDTH):
    return torch.randn(width, rank, generator=torch.Generator().manual_seed(seed)) / width**0.5


def schedule(name, positions="all", seed=0):
    """One schedule of each kind of operator, strong enough to show in the logits."""
    operators = {
        "ablate": Ablate(direction=vector(seed), coefficient=1.5),
        "clamp": Clamp(direction=vector(seed), at_least=2.0, at_most=2.5),
        "affine": Affine(outputs=matrix(seed), inputs=matrix(seed + 1), bias=vector(seed + 2, 0.5)),
    }
    if name == "add":
        return Constant(vector=vector(seed, 3.0), positions=positions)
    return Operated(operator=operators[name], positions=positions)


def by_hand(schedule, hidden):
    """What a schedule makes of states `[..., width]`, in plain numpy and double precision, at the places it acts."""
    states = hidden.astype("float64")
    if isinstance(schedule, Constant):
        return states + schedule.vector.double().numpy()
    operator = schedule.operator
    if isinstance(operator, Affine):
        outputs, inputs = operator.outputs.double().numpy(), operator.inputs.double().numpy()
        return states + (states @ inputs) @ outputs.T + operator.bias.double().numpy()
    direction = operator.direction.double().numpy()
    projection = (states @ direction)[..., None]
    if isinstance(operator, Ablate):
        return states - operator.coefficient * projection * direction
    return states + (projection.clip(operator.at_least, operator.at_most) - projection) * direction


def intervention(schedule, block=1, point="resid_post", gate=None):
    return Intervention(step="steer", block=block, schedule=schedule, gate=gate or VerdictGate(), point=point)


@contextmanager
def operated(model, items, document=None, **named):
    """The model under a guard whose step `steer` does these interventions instead of its artifact's."""
    with guarded(model, document or policy(-1e6), **named) as wrapped:
        engine = wrapped.guard._engine
        plan = engine.program.plan
        steps = tuple(replace(step, points=POINTS) for step in plan.steps)
        late = any(
            item.block - (item.point == "resid_pre") < max(engine.program.read_blocks, default=-1) for item in items
        )
        plan = replace(plan, steps=steps, cost=replace(plan.cost, passes=2 if late else 1))
        changed = replace(engine, program=arranged_program(plan, engine.program.probes, items))
        wrapped.guard._engine = wrapped.guard._policies._in_force = changed
        yield wrapped
