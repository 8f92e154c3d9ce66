"""Detect without generating: one prompt pass that reads and decides and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from steerguard.decision import Usage
from steerguard.engine.active import activity
from steerguard.engine.exceeded import before_answers
from steerguard.engine.finish import GuidedResult
from steerguard.engine.loop import Engine
from steerguard.engine.outcome import decision, read_verdicts
from steerguard.engine.probing import limit_forward_tokens
from steerguard.engine.sampling import new_request, unpadded

if TYPE_CHECKING:
    from torch import Tensor

    from steerguard.engine.call_trace import CallTrace


def check_batch(
    engine: Engine, model: Any, input_ids: Tensor, attention_mask: Tensor, *, trace: CallTrace
) -> GuidedResult:
    """Return the decisions that `generate` would take for these prompts; no answer, no dose.

    `applied` says what `generate` would do in the guard's mode.

    Args:
        engine: the bound engine.
        model: the wrapped model.
        input_ids: int64 `[rows, prompt width]`.
        attention_mask: 1 where a token counts, `[rows, prompt width]`.
        trace: the call; all its time is the guard's, which alone asks for this pass.
    """
    trace.stage = "detect"
    reading = replace(engine, mode="monitor") if engine.mode == "enforce" else engine
    request = new_request(reading, input_ids, attention_mask.bool(), cached=False)
    positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
    limit_forward_tokens(request, steers=engine.mode == "enforce")
    hooks = engine.hooks.install(request.prefill_hooks())
    try:
        with activity(request), torch.no_grad():
            model(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False)
    finally:
        hooks.remove()
    verdicts = read_verdicts(request, engine.mode)
    lengths = attention_mask.sum(dim=1).tolist()
    decisions = tuple(
        decision(
            request,
            request_id=trace.request,
            row=row,
            mode=engine.mode,
            verdict=verdict,
            row_doses=(),
            usage=Usage(prompt_tokens=int(lengths[row]), generated_tokens=0, extra_forward_tokens=int(lengths[row])),
            template_cut=False,
        )
        for row, verdict in enumerate(verdicts)
    )
    prompts = unpadded(input_ids, attention_mask)
    return GuidedResult(
        output=None,
        decisions=decisions,
        prompts=prompts,
        answers=((),) * len(prompts),
        exceeded=tuple(before_answers(request.exceeded, range(request.rows), decisions)),
    )
