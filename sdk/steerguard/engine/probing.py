"""Passes over a prompt before its prefill, where the prefill itself would learn the verdict too late.

Two things make a verdict late: a detector reads behind the first place that is changed, and a prefill in chunks changes
columns before it has seen the end of the prompt. Then the same rows go through the model once more, at the same shape,
and nothing of that pass is kept but what was read. The prefill that follows knows the verdict from its first column;
where no gate opened it carries no hook at all.

Gates of single blocks keep their meaning: each reads what the places before it have changed. In a prefill in chunks
that takes a pass at full width that changes as the prefill will.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from steerguard.engine.active import activity
from steerguard.engine.arguments import unsupported
from steerguard.engine.exceeded import exceeded
from steerguard.engine.loop_inputs import CACHES, LOOP_ARGUMENTS
from steerguard.engine.relatives import sibling_of
from steerguard.engine.schedules import first_changed
from steerguard.guidance.intervention import Intervention, LinearGate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from steerguard.engine.loop import Engine
    from steerguard.engine.request import GuidedRequest

    Forward = Callable[[int | None], object]


def probe(engine: Engine, request: GuidedRequest, forward: Forward) -> None:
    """Take the verdict of a request now if its prefill would be too late for it; otherwise do nothing.

    Args:
        engine: the bound engine.
        request: the request, before its prefill; it counts what was done in `extra_passes`.
        forward: runs the model over the rows of the request and keeps nothing; called with the number of columns of
            each pass, None for all at once.
    """
    if not request.steers or not _most_extra_passes(request):
        return
    limit_forward_tokens(request, steers=True)
    if not request.reads_anything:
        request.close()
        return
    early = _early(request)
    dry = any(isinstance(item.gate, LinearGate) for item in early)
    if request.program.probes and (request.program.decides_late or not dry):
        request.adopt_verdict(_passed(engine, request, forward, steers=False, chunk=request.chunk))
    gated = [item for item in early if isinstance(item.gate, LinearGate) and request.may_open(item)]
    if gated:
        request.adopt_gates(_passed(engine, request, forward, steers=True, chunk=None))


def limit_forward_tokens(request: GuidedRequest, *, steers: bool) -> None:
    """Close rows for which the passes before the prefill would take more forward tokens than the budget allows.

    The copies of a prompt, its beams or several answers to it, are one request and count together.

    Args:
        request: the request, before anything was read.
        steers: whether `generate` would steer; where it only reads, it makes no such pass.
    """
    plan, passes = request.program.plan, _most_extra_passes(request) if steers else 0
    if not passes or plan.max_extra_forward_tokens is None:
        return
    lengths = request.prompt_mask.sum(dim=1).tolist()
    found = [request.copies * plan.cost.extra_forward_tokens(length, extra_passes=passes) for length in lengths]
    if max(found) > plan.max_extra_forward_tokens:
        request.limit([tokens <= plan.max_extra_forward_tokens for tokens in found])
        request.exceeded += tuple(
            one
            for row, tokens in enumerate(found)
            if tokens > plan.max_extra_forward_tokens
            for one in exceeded(plan, row, "max_extra_forward_tokens", tokens)
        )


def prefill_of(model: Any, input_ids: Tensor, generation_config: Any, inputs: Mapping[str, Any]) -> Forward:
    """Return what runs a prompt as the prefill of a decoding loop does, with the same tensors, and keeps nothing.

    Args:
        model: the wrapped model.
        input_ids: int64 `[rows, prompt width]`, as prepared by `generate`.
        generation_config: the effective settings.
        inputs: what the loop was called with beside them.
    """
    kept = {name: value for name, value in inputs.items() if name not in (*LOOP_ARGUMENTS, *CACHES)}
    cached = next((name for name in CACHES if name in inputs), CACHES[0])

    def forward(chunk: int | None) -> None:
        config = copy.copy(generation_config)
        config.prefill_chunk_size = chunk
        if chunk is None:
            named = {**kept, "use_cache": False}
        else:
            # The chunks of one prompt see each other through a cache; it ends with this pass.
            cache = DynamicCache(config=model.config.get_text_config(decoder=True))
            named = {**kept, "use_cache": True, cached: cache}
        model._prefill(input_ids, config, named)  # noqa: SLF001 - what the loop itself calls first

    return forward


def chunk_of(generation_config: Any) -> int | None:
    """Return how many columns each pass of the prefill brings; None for all at once.

    Raises:
        UnsupportedGenerationError: chunks of no width, or chunks without a cache, in which they could not see each other.
    """
    chunk = generation_config.prefill_chunk_size
    if chunk is None:
        return None
    if type(chunk) is not int or chunk < 1:
        raise unsupported(f"`prefill_chunk_size={chunk!r}`")
    if not generation_config.use_cache:
        raise unsupported("`prefill_chunk_size` without a cache")
    return chunk


def _passed(
    engine: Engine, request: GuidedRequest, forward: Forward, *, steers: bool, chunk: int | None
) -> GuidedRequest:
    """Return a request over the same rows that has seen their prompts."""
    made = sibling_of(request, steers=steers, chunk=chunk)
    hooks = engine.hooks.install(made.prefill_hooks())
    try:
        with activity(made), torch.no_grad():
            forward(chunk)
    finally:
        hooks.remove()
    made.require_complete()
    request.extra_passes += 1
    return made


def _most_extra_passes(request: GuidedRequest) -> int:
    """Return how many passes before the prefill a request can need at most."""
    early = _early(request)
    dry = any(isinstance(item.gate, LinearGate) for item in early)
    if request.program.decides_late:
        return 1 + dry
    return int(dry or (bool(early) and bool(request.program.probes)))


def _early(request: GuidedRequest) -> list[Intervention]:
    """Return the interventions that would change something before the last chunk of the prompt."""
    if request.chunk is None:
        return []
    first, width = request.first_column, request.prompt_mask.shape[1]
    last = first + (width - first - 1) // request.chunk * request.chunk
    rows = [
        (attention, end)
        for attention, end, seen in zip(request.prompt_mask.tolist(), request.columns, request.recognised, strict=True)
        if seen
    ]
    return [
        item
        for item in request.program.interventions
        if any(first_changed(item.schedule, attention=attention, end=end) < last for attention, end in rows)
    ]
