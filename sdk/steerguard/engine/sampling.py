"""Greedy search and sampling under guidance: runs transformers' own loop with a guided request around it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from steerguard.decision import Decision, Usage
from steerguard.engine.active import activity
from steerguard.engine.outcome import RowVerdict, decision, doses, read_verdicts
from steerguard.engine.refusal import FittedTemplate, RefusalTemplate, replace_rows
from steerguard.engine.request import GuidedRequest
from steerguard.policy.rules import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from steerguard.engine.hooks import BlockHooks
    from steerguard.engine.program import Program
    from steerguard.models.chat import GenerationPrompt
    from steerguard.plan.plan import Mode


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """What every request on one wrapped model shares; holds no state of a request."""

    owner: object
    program: Program
    hooks: BlockHooks
    generation_prompt: GenerationPrompt | None
    template: RefusalTemplate
    mode: Mode


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


class _Prefilled(LogitsProcessor):  # type: ignore[misc]  # transformers' classes are untyped
    """Takes the verdicts when the first logits arrive, and watches open rows for numbers that are not finite."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        del input_ids
        return self._run.on_logits(scores)


class _Refused(StoppingCriteria):  # type: ignore[misc]  # transformers' classes are untyped
    """Finishes refused rows at once, so that a fully refused batch runs no decode step."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        del scores, kwargs
        return self._run.refused_rows(input_ids.device)


class _Run:
    """One run of the loop: the request, its hooks and what the loop's callbacks learn."""

    def __init__(self, engine: Engine, request: GuidedRequest, *, samples: bool) -> None:
        self._engine = engine
        self._samples = samples
        self.request = request
        self.verdicts: tuple[RowVerdict, ...] = ()
        self._held: tuple[int, ...] = ()
        self._refused: Tensor | None = None
        self._broken: Tensor | None = None
        self._watching = False

    def start(self) -> None:
        """Install the hooks that the prefill needs."""
        program = self._engine.program
        blocks = tuple(program.blocks) if self._engine.mode == "enforce" else program.read_blocks
        self._engine.hooks.acquire(blocks)
        self._held = blocks

    def stop(self) -> None:
        """Give back every hook that is still held."""
        held, self._held = self._held, ()
        self._engine.hooks.release(held)

    def on_logits(self, scores: Tensor) -> Tensor:
        """Freeze the verdicts after the prefill; afterwards watch open rows."""
        if not self.verdicts:
            self._freeze(scores.device)
            unusable = [verdict.verdict.cause == "non_finite" for verdict in self.verdicts]
            if any(unusable):
                return _silenced(scores, torch.tensor(unusable, device=scores.device))
        if not self._watching:
            return scores
        # A state that is not finite makes every logit of its row NaN, so one column tells.
        broken = torch.isnan(scores[:, 0])
        self._broken = broken if self._broken is None else self._broken | broken
        return _silenced(scores, self._broken) if self._samples else scores

    def _freeze(self, device: torch.device) -> None:
        self.verdicts = read_verdicts(self.request, self._engine.mode)
        refused = [verdict.applied == "refuse" for verdict in self.verdicts]
        self._refused = torch.tensor(refused, device=device)
        opened = {item for verdict in self.verdicts for item in verdict.open}
        keep = self.request.freeze([item for item in self._engine.program.interventions if item in opened])
        if all(refused):
            keep = ()
        self._engine.hooks.release([block for block in self._held if block not in keep])
        self._held = keep
        self._watching = bool(opened)

    def refused_rows(self, device: torch.device) -> Tensor:
        """Return bool `[rows]`: rows that are refused."""
        if self._refused is None:  # pragma: no cover - the loop reads logits before it stops
            return torch.zeros(self.request.rows, dtype=torch.bool, device=device)
        return self._refused

    def broken_rows(self) -> set[int]:
        """Return the open rows whose logits stopped being finite."""
        if self._broken is None:
            return set()
        return {row for row, broken in enumerate(self._broken.tolist()) if broken}


def _silenced(scores: Tensor, rows: Tensor) -> Tensor:
    """Return the scores with zeros in rows that will be refused, so that drawing from them cannot fail."""
    return torch.where(rows[:, None], torch.zeros_like(scores), scores)


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
    request = new_request(engine, input_ids, prompt_mask, cached=bool(generation_config.use_cache))
    run = _Run(engine, request, samples=bool(generation_config.do_sample))
    try:
        run.start()
        with activity(request):
            output = original(
                input_ids,
                logits_processor=LogitsProcessorList([_Prefilled(run), *logits_processor]),
                stopping_criteria=StoppingCriteriaList([*stopping_criteria, _Refused(run)]),
                generation_config=generation_config,
                **loop_arguments,
            )
    finally:
        run.stop()
    return _finish(engine, run, output, input_ids, generation_config)


def new_request(engine: Engine, input_ids: Tensor, prompt_mask: Tensor, *, cached: bool) -> GuidedRequest:
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
    )


def _finish(engine: Engine, run: _Run, output: Any, input_ids: Tensor, generation_config: Any) -> GuidedResult:
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    prompt_width = input_ids.shape[1]
    attention = run.request.prompt_mask.long().tolist()
    fed_back = max(sequences.shape[1] - prompt_width - 1, 0)
    all_doses = doses(run.request, run.verdicts, attention, fed_back)
    verdicts = _refuse_broken(run)
    end_ids = _ids(generation_config._eos_token_tensor)  # noqa: SLF001 - set by generate for its own loops
    pad_ids = _ids(generation_config._pad_token_tensor)  # noqa: SLF001 - set by generate for its own loops
    pad = pad_ids[0] if pad_ids else 0
    fitted = engine.template.fit(generation_config.max_length - prompt_width, end_ids[0] if end_ids else None)
    refused = {row: fitted.ids for row, verdict in enumerate(verdicts) if verdict.applied == "refuse"}
    final = replace_rows(sequences, prompt_width=prompt_width, rows=refused, pad=pad) if refused else sequences
    answers = tuple(
        refused[row] if row in refused else _answer(ids, end_ids, pad)
        for row, ids in enumerate(final[:, prompt_width:].tolist())
    )
    prompts = tuple(
        tuple(token for token, counts in zip(ids, mask, strict=True) if counts)
        for ids, mask in zip(input_ids.tolist(), attention, strict=True)
    )
    request_id = secrets.token_hex(16)
    decisions = tuple(
        _decision(engine, run, request_id, row, verdict, all_doses[row], prompts[row], answers[row], fitted)
        for row, verdict in enumerate(verdicts)
    )
    return GuidedResult(output=_replaced(output, final), decisions=decisions, prompts=prompts, answers=answers)


def _decision(  # noqa: PLR0913 - one row of `_finish`
    engine: Engine,
    run: _Run,
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


def _refuse_broken(run: _Run) -> tuple[RowVerdict, ...]:
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
