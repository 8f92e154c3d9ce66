"""Greedy search and sampling under guidance: runs transformers' own loop with a guided request around it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from steerguard.decision import Decision, Usage
from steerguard.engine.active import activity
from steerguard.engine.loop import Engine, GuidedLoop
from steerguard.engine.outcome import RowVerdict, decision, doses
from steerguard.engine.refusal import FittedTemplate, replace_rows
from steerguard.engine.request import GuidedRequest
from steerguard.policy.rules import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from transformers import LogitsProcessorList, StoppingCriteriaList


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedResult:
    """What one batch came to."""

    output: Any
    """What transformers' loop returned, refused rows replaced."""
    decisions: tuple[Decision, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Token ids per row, padding left out."""
    answers: tuple[tuple[int, ...], ...]
    """Returned token ids per row, padding left out."""


def guided_sample(
    engine: Engine,
    original: Callable[..., Any],
    input_ids: Tensor,
    *,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Any,
    **loop_arguments: Any,
) -> GuidedResult:
    """Run transformers' sampling loop for one batch under guidance.

    Args:
        engine: the bound engine of the model.
        original: the model's own `_sample`, bound.
        input_ids: int64 `[rows, prompt width]`, as prepared by `generate`.
        logits_processor: as prepared by `generate`; ours goes first, so that it sees the model's own numbers.
        stopping_criteria: as prepared by `generate`.
        generation_config: the effective settings.
        loop_arguments: everything else, passed on unchanged.
    """
    mask = loop_arguments.get("attention_mask")
    prompt_mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    # The prefill gives the first token, and the last one is never fed back.
    most_passes = max(generation_config.max_length - input_ids.shape[1] - 1, 0)
    cached = bool(generation_config.use_cache)
    request = new_request(engine, input_ids, prompt_mask, cached=cached, most_passes=most_passes)
    # Read before the loop: an app's callbacks hold the same tensor.
    prompts = unpadded(input_ids, prompt_mask)
    pad = (*_ids(generation_config._pad_token_tensor), 0)[0]  # noqa: SLF001 - set by generate for its own loops
    run = GuidedLoop(engine, request, samples=bool(generation_config.do_sample), filler=pad)
    try:
        run.start()
        with activity(request):
            output = original(
                input_ids,
                logits_processor=run.processors(logits_processor),
                stopping_criteria=run.criteria(stopping_criteria),
                generation_config=generation_config,
                **loop_arguments,
            )
    finally:
        run.stop()
    return _finish(engine, run, output, prompts, pad, generation_config)


def new_request(
    engine: Engine, input_ids: Tensor, prompt_mask: Tensor, *, cached: bool, most_passes: int | None = None
) -> GuidedRequest:
    """Return the request for one batch: prompt ends located, budget checked."""
    limit = engine.program.plan.max_extra_memory_bytes
    rows = input_ids.shape[0]
    prompt = engine.generation_prompt
    ends = (None,) * rows if prompt is None else prompt.ends(input_ids, prompt_mask)
    return GuidedRequest(
        owner=engine.owner,
        program=engine.program,
        prompt_mask=prompt_mask,
        ends=ends,
        steers=engine.mode == "enforce",
        cached=cached,
        within_budget=limit is None or engine.program.plan.cost.extra_bytes(rows) <= limit,
        most_passes=most_passes,
    )


def unpadded(input_ids: Tensor, prompt_mask: Tensor) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of each row without padding."""
    return tuple(
        tuple(token for token, counts in zip(ids, mask, strict=True) if counts)
        for ids, mask in zip(input_ids.tolist(), prompt_mask.tolist(), strict=True)
    )


def _finish(
    engine: Engine,
    run: GuidedLoop,
    output: Any,
    prompts: tuple[tuple[int, ...], ...],
    pad: int,
    generation_config: Any,
) -> GuidedResult:
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    prompt_width = run.request.prompt_mask.shape[1]
    attention = run.request.prompt_mask.long().tolist()
    fed_back = max(sequences.shape[1] - prompt_width - 1, 0)
    all_doses = doses(run.request, run.verdicts, attention, fed_back)
    verdicts = _refuse_broken(run)
    end_ids = _ids(generation_config._eos_token_tensor)  # noqa: SLF001 - set by generate for its own loops
    fitted = engine.template.fit(generation_config.max_length - prompt_width, end_ids[0] if end_ids else None)
    refused = {row: fitted.ids for row, verdict in enumerate(verdicts) if verdict.applied == "refuse"}
    final = replace_rows(sequences, prompt_width=prompt_width, rows=refused, pad=pad) if refused else sequences
    answers = tuple(
        refused[row] if row in refused else _answer(ids, end_ids, pad)
        for row, ids in enumerate(final[:, prompt_width:].tolist())
    )
    request_id = secrets.token_hex(16)
    decisions = tuple(
        _decision(engine, run, request_id, row, verdict, all_doses[row], prompts[row], answers[row], fitted)
        for row, verdict in enumerate(verdicts)
    )
    return GuidedResult(output=_replaced(output, final), decisions=decisions, prompts=prompts, answers=answers)


def _decision(
    engine: Engine,
    run: GuidedLoop,
    request_id: str,
    row: int,
    verdict: RowVerdict,
    row_doses: Any,
    prompt: tuple[int, ...],
    answer: tuple[int, ...],
    fitted: FittedTemplate,
) -> Decision:
    opened = bool(run.verdicts[row].open)
    return decision(
        run.request,
        request_id=request_id,
        row=row,
        mode=engine.mode,
        verdict=verdict,
        row_doses=row_doses,
        usage=Usage(
            prompt_tokens=len(prompt),
            generated_tokens=len(answer),
            extra_forward_tokens=engine.program.plan.cost.extra_forward_tokens(len(prompt), opened=opened),
        ),
        template_cut=verdict.applied == "refuse" and fitted.cut,
    )


def _refuse_broken(run: GuidedLoop) -> tuple[RowVerdict, ...]:
    """Turn open rows whose logits stopped being finite into refusals."""
    broken = run.broken_rows()
    return tuple(
        replace(
            verdict,
            applied="refuse",
            verdict=Verdict(rules=verdict.verdict.rules, action="refuse", use=(), cause="non_finite"),
        )
        if row in broken
        else verdict
        for row, verdict in enumerate(run.verdicts)
    )


def _answer(ids: list[int], end_ids: tuple[int, ...], pad: int) -> tuple[int, ...]:
    """Return the generated ids of one row up to its end, without the padding of a finished row."""
    for index, token in enumerate(ids):
        if token in end_ids:
            return tuple(ids[: index + 1])
    while ids and ids[-1] == pad:
        ids = ids[:-1]
    return tuple(ids)


def _ids(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(int(token) for token in tensor.reshape(-1).tolist())


def _replaced(output: Any, sequences: Tensor) -> Any:
    """Return the output with other sequences; a dictionary output loses its cache, which this version cannot reuse."""
    if isinstance(output, torch.Tensor):
        return sequences
    output["sequences"] = sequences
    if "past_key_values" in output:
        output["past_key_values"] = None
    return output
