"""Greedy search, sampling and beams under guidance: runs transformers' own loop with a guided request around it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from steerguard.engine.active import activity
from steerguard.engine.arguments import CACHE, unsupported
from steerguard.engine.cache_kinds import unknown_kind
from steerguard.engine.exceeded import exceeded, mebibytes
from steerguard.engine.finish import (
    GuidedResult,
    finish,
    fitted_template,
    returned_rows,
    sequence_decision,
)
from steerguard.engine.loop import Engine, GuidedLoop
from steerguard.engine.loop_settings import LoopSettings
from steerguard.engine.modality_columns import text_columns
from steerguard.engine.own_caches import columns_of
from steerguard.engine.probing import chunk_of, prefill_of, probe
from steerguard.engine.request import GuidedRequest
from steerguard.engine.search_rows import SearchRows, require_searchable
from steerguard.engine.searching import Batch, search_rows
from steerguard.engine.streaming import GuardedStreamer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor
    from transformers import LogitsProcessorList, StoppingCriteriaList

    from steerguard.decision import Decision
    from steerguard.engine.call_trace import CallTrace
    from steerguard.engine.own_caches import CacheTurn

    Record = Callable[[tuple[Decision, ...], tuple[tuple[int, ...], ...]], None]


PLAIN_INPUTS = frozenset({
    "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep", "synced_gpus", "streamer",
    "output_attentions", "output_hidden_states",
})  # fmt: skip
"""What a loop may be given beside tokens such that the tokens and their mask alone say what a cache holds."""


def guided_sample(
    engine: Engine,
    original: Callable[..., Any],
    input_ids: Tensor,
    *,
    model: Any,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: Any,
    record: Record,
    turn: CacheTurn,
    trace: CallTrace,
    beams: bool = False,
    **loop_arguments: Any,
) -> GuidedResult:
    """Run transformers' decoding loop for one batch under guidance.

    Args:
        engine: the bound engine of the model.
        original: the model's own `_sample` or `_beam_search`, bound.
        input_ids: int64 `[rows, prompt width]`, as prepared by `generate`; with beams or several answers per prompt a
            prompt stands in that many rows, side by side.
        model: the wrapped model.
        logits_processor: as prepared by `generate`; ours goes first, so that it sees the model's own numbers.
        stopping_criteria: as prepared by `generate`.
        generation_config: the effective settings.
        record: writes what was decided before there is an answer, for a streamer that releases tokens at once.
        turn: the call and the cache that the app brought to it.
        trace: the call; transformers' loop is not counted as time of the guard, with all that hooks and callbacks do in
            it, but for the records written there.
        beams: whether the loop is beam search.
        loop_arguments: everything else, passed on unchanged.
    """
    if engine.program.watches and not generation_config.use_cache:
        raise unsupported("`use_cache=False` under a rolling guard")
    mask = loop_arguments.get("attention_mask")
    prompt_mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.bool()
    settings = LoopSettings.of(generation_config, input_ids.shape[1], beams=beams)
    request = new_request(
        engine,
        input_ids,
        prompt_mask,
        cached=bool(generation_config.use_cache),
        # The prefill gives the first token, and the last one is never fed back.
        most_passes=max(settings.limit - 1, 0),
        copies=settings.copies,
        chunk=chunk_of(generation_config),
    )
    turn.settle(request, input_ids, plain=not set(_given(loop_arguments)) - PLAIN_INPUTS)
    # Read before the loop: an app's callbacks hold the same tensor.
    prompts, prompt_ids = unpadded(input_ids, prompt_mask), input_ids.clone()
    streamer = loop_arguments.get("streamer")
    on_verdicts = _decided(trace)
    if isinstance(streamer, GuardedStreamer):
        streamer.start(request, engine.program.plan.streaming, pad=settings.pad)
        on_verdicts = _release_of(streamer, engine, prompts, trace, record)
    trace.stage = "detect"
    probe(engine, request, prefill_of(model, input_ids, generation_config, loop_arguments))
    searches = None
    asked = functools.cache(lambda row: engine.user_text(prompts[row]))
    if engine.program.searches and engine.mode == "enforce":
        require_searchable(settings)
        searches = SearchRows(request, engine.hooks, loop_arguments, logits_processor, asked)
    run = GuidedLoop(engine, request, settings, on_verdicts, searches)
    try:
        run.start()
        with activity(request), trace.outside():
            output = original(
                input_ids,
                logits_processor=run.processors(logits_processor),
                stopping_criteria=run.criteria(stopping_criteria),
                generation_config=generation_config,
                **loop_arguments,
            )
        run.settle()
    finally:
        run.stop()
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    found = {}
    if searches is not None:
        batch = Batch(
            model=model,
            run=run,
            rows=searches,
            prompt_ids=prompt_ids,
            prompts=prompts,
            loop_arguments=loop_arguments,
            processors=logits_processor,
            criteria=stopping_criteria,
            asked=asked,
            text=engine.text,
        )
        answers = searches.answers(sequences[:, settings.prompt_width :])
        found = search_rows(batch, answers, run.broken_rows(), trace)
    result = finish(engine, run, output, prompts, trace.request, found)
    cache = turn.cache if turn.cache is not None else _returned(result.output, loop_arguments.get(CACHE))
    if not isinstance(result.output, torch.Tensor) and CACHE in result.output:
        result.output[CACHE] = cache
    if cache is not None and any(search.report.outcome != "kept" for search in found.values()):
        # What it holds is not what is returned.
        turn.close(cache, None, refused=True)
    elif cache is not None:
        _keep_cache(turn, cache, run, result, prompt_ids, sequences[:, settings.prompt_width :])
    return result


def _given(loop_arguments: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, value in loop_arguments.items() if value is not None)


def _returned(output: Any, cache: Any) -> Any:
    """Return the cache that the library made for a loop, if the output shows it and a next call can take it back."""
    shown = not isinstance(output, torch.Tensor) and output.get(CACHE) is cache
    return cache if shown and cache is not None and unknown_kind(cache) is None else None


def _keep_cache(
    turn: CacheTurn, cache: Any, run: GuidedLoop, result: GuidedResult, prompt_ids: Tensor, generated: Tensor
) -> None:
    """Remember what the cache that outlives the call holds.

    Args:
        turn: the call.
        cache: the cache, of a known kind.
        run: its loop, finished.
        result: what is returned.
        prompt_ids: int64 `[rows, prompt width]`, what the prefill was for.
        generated: int64 `[rows, generated]`, what the loop returned behind it, before refused rows were replaced; with
            beams it has one row per returned sequence.
    """
    columns = None
    # Beams have moved rows about.
    if not run.settings.beams and not run.steered:
        fed = torch.cat((prompt_ids, generated.to(prompt_ids.device)), dim=1)
        columns = columns_of(cache, fed, run.request)
    turn.close(cache, columns, refused=any(decision.applied == "refuse" for decision in result.decisions))


def new_request(
    engine: Engine,
    input_ids: Tensor,
    prompt_mask: Tensor,
    *,
    cached: bool,
    most_passes: int | None = None,
    copies: int = 1,
    chunk: int | None = None,
    scores_answers: bool = False,
) -> GuidedRequest:
    """Return the request for one batch: prompt ends located, budget checked."""
    plan, rows = engine.program.plan, input_ids.shape[0]
    limit, needed = plan.max_extra_memory_bytes, plan.cost.extra_bytes(rows)
    within = limit is None or needed <= limit
    prompt = engine.generation_prompt
    ends = (None,) * rows if prompt is None else prompt.ends(input_ids, prompt_mask)
    request = GuidedRequest(
        owner=engine.owner,
        program=engine.program,
        prompt_mask=prompt_mask,
        ends=ends,
        steers=engine.mode == "enforce",
        cached=cached,
        within_budget=within,
        revoked=engine.revoked,
        most_passes=most_passes,
        copies=copies,
        chunk=chunk,
        texts=text_columns(
            engine.program, input_ids, engine.modality_ids, scored_behind=ends if scores_answers else None
        ),
    )
    if not within:
        found = (exceeded(plan, row, "max_extra_memory_mib", mebibytes(needed)) for row in range(rows))
        request.exceeded = tuple(one for ones in found for one in ones)
    return request


def unpadded(input_ids: Tensor, prompt_mask: Tensor) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of each row without padding."""
    return tuple(
        tuple(token for token, counts in zip(ids, mask, strict=True) if counts)
        for ids, mask in zip(input_ids.tolist(), prompt_mask.tolist(), strict=True)
    )


def _decided(trace: CallTrace) -> Callable[[GuidedLoop], None]:
    """Return what happens once the verdicts are taken where nothing is streamed."""

    def decided(_run: GuidedLoop) -> None:
        trace.stage = "generate"

    return decided


def _release_of(
    streamer: GuardedStreamer,
    engine: Engine,
    prompts: Sequence[tuple[int, ...]],
    trace: CallTrace,
    record: Record,
) -> Callable[[GuidedLoop], None]:
    """Return what happens once the verdicts are taken: they are recorded where needed, and tokens may leave."""

    def release(run: GuidedLoop) -> None:
        trace.stage = "generate"
        fitted, rows = fitted_template(engine, run), returned_rows(run)
        if streamer.records_first:
            with trace.inside():
                record(
                    tuple(
                        sequence_decision(
                            engine, run, trace.request, index, run.verdicts[row], (), len(prompts[row]), (), fitted
                        )
                        for index, row in enumerate(rows)
                    ),
                    tuple(prompts[row] for row in rows),
                )
        refused = {index for index, row in enumerate(rows) if run.verdicts[row].applied == "refuse"}
        streamer.decided(dict.fromkeys(refused, fitted.ids), run.broken_rows, run.stopped_rows)

    return release
