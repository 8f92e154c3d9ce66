"""Tiny models that an app compiles after they were wrapped, and ways to count what torch compiles."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import torch
from tests.guarded_models import guarded, policy, run
from tests.operated_models import POINTS
from torch._dynamo.utils import counters

from steerguard.engine.compiled import CompiledExecutor
from steerguard.engine.hooks import BlockHooks
from steerguard.engine.program import arranged_program
from steerguard.models.blocks import decoder_blocks

ROWS = 4
TOKENS = {"max_new_tokens": 5, "min_new_tokens": 5}


@contextmanager
def compiled(model, how="forward", *, backend="eager", fullgraph=True):
    """The model, compiled in one of the ways of an app; as before afterwards."""
    if how == "forward":
        model.forward = torch.compile(model.forward, backend=backend, fullgraph=fullgraph)
    else:
        model.compile(backend=backend, fullgraph=fullgraph)
    try:
        yield model
    finally:
        if how == "forward":
            del model.forward
        else:
            model._compiled_call_impl = None


@contextmanager
def guarded_and_compiled(model, document=None, how="forward", *, backend="eager", fullgraph=True, **named):
    with (
        guarded(model, document or policy(-1e6), executor="compiled", **named) as wrapped,
        compiled(wrapped, how, backend=backend, fullgraph=fullgraph),
    ):
        yield wrapped


def unguided(model, batch, how="forward", *, fullgraph=True, **settings):
    """Tokens and logits without a guard, prompt and decode steps compiled."""
    with compiled(model, how, fullgraph=fullgraph):
        return run(model, batch, **{**TOKENS, **settings})


def unguided_steps(model, batch, backend):
    """Tokens and logits without a guard, only the decode steps compiled, as with one."""
    form = torch.compile(model.forward, backend=backend, fullgraph=True)

    def compile_now(step):
        if step == 0:
            model.forward = form

    try:
        return run(model, batch, act=compile_now, **TOKENS)
    finally:
        vars(model).pop("forward", None)


def guided(wrapped, batch, **settings):
    """Tokens and logits, and the decisions."""
    with wrapped.guard.collect() as reports:
        result = run(wrapped, batch, **{**TOKENS, **settings})
    return result, list(reports)


def rows_of(reports, action):
    """The rows in which this was done."""
    return [row for row, report in enumerate(reports) if report.applied == action]


def graphs():
    """How many graphs torch has compiled since the last reset."""
    return counters["stats"].get("unique_graphs", 0)


@contextmanager
def operated_and_compiled(model, items, document=None, *, fullgraph=True, **named):
    """As `operated`, with the places of these interventions, and compiled."""
    with guarded(model, document or policy(-1e6), executor="compiled", **named) as wrapped:
        guard = wrapped.guard
        engine = guard._engine
        plan = engine.program.plan
        plan = replace(plan, steps=tuple(replace(step, points=POINTS) for step in plan.steps))
        late = any(
            item.block - (item.point == "resid_pre") < max(engine.program.read_blocks, default=-1) for item in items
        )
        plan = replace(plan, cost=replace(plan.cost, passes=2 if late else 1))
        program = arranged_program(plan, engine.program.probes, items)
        guard.compiled.remove(wrapped)
        hooks, blocks = engine.hooks, decoder_blocks(wrapped)
        assert isinstance(hooks, BlockHooks)
        executor = CompiledExecutor(program, hooks, blocks)
        executor.install(wrapped)
        guard._engine = guard._policies._in_force = replace(engine, program=program, compiled=executor)
        guard.compiled = executor
        with compiled(wrapped, fullgraph=fullgraph):
            yield wrapped
