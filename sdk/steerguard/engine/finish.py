"""From one finished loop to what is returned: refused sequences replaced, every sequence with its decision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from steerguard.decision import Decision, Usage
from steerguard.engine.exceeded import before_answers
from steerguard.engine.modality_columns import changeable_columns
from steerguard.engine.outcome import decision, doses
from steerguard.engine.refusal import FittedTemplate, replace_rows
from steerguard.errors import GuidanceDidNotFireError, UnsupportedGenerationError
from steerguard.policy.rules import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.decision import Dose, SearchReport
    from steerguard.engine.exceeded import ExceededLimit
    from steerguard.engine.loop import Engine, GuidedLoop
    from steerguard.engine.loop_settings import LoopSettings
    from steerguard.engine.outcome import RowVerdict
    from steerguard.engine.request import GuidedRequest
    from steerguard.engine.searching import RowSearch

STEP_RECORDS = ("scores", "logits", "attentions", "hidden_states", "sequences_scores")
"""What a dictionary output holds of the steps; none of it fits a sequence that was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedResult:
    """What one batch came to, one entry per returned sequence."""

    output: Any
    """What transformers' loop returned, refused sequences replaced."""
    decisions: tuple[Decision, ...]
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of the prompt, padding left out."""
    answers: tuple[tuple[int, ...], ...]
    """Returned token ids, padding left out."""
    prompt_width: int = 0
    """Columns of the prompt."""
    exceeded: tuple[ExceededLimit, ...] = ()
    """Limits of the budget that made rows refuse or fall back, by returned sequence."""

    @property
    def generated(self) -> Tensor:
        """The returned sequences behind their prompts, int64 `[returned sequences, generated]`."""
        sequences: Tensor = self.output if isinstance(self.output, torch.Tensor) else self.output.sequences
        return sequences[:, self.prompt_width :]


def finish(
    engine: Engine,
    run: GuidedLoop,
    output: Any,
    prompts: Sequence[tuple[int, ...]],
    request_id: str,
    searched: Mapping[int, RowSearch] = MappingProxyType({}),
) -> GuidedResult:
    """Return what a finished loop came to.

    Args:
        engine: the bound engine.
        run: the loop.
        output: what transformers' loop returned.
        prompts: token ids of every row of the loop, padding left out.
        request_id: id of the request in reports and records.
        searched: what searches came to, by row of the loop.

    Raises:
        GuidanceDidNotFireError: the loop and the hooks tell different stories.
        UnsupportedGenerationError: a sequence was refused and the caller asked for records of the steps.
    """
    settings = run.settings
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    attention = run.request.prompt_mask.long().tolist()
    changeable = changeable_columns(engine.program, attention, prompts, engine.modality_ids)
    exchanged = {row: search.tokens for row, search in searched.items() if search.tokens is not None}
    all_doses = doses(
        run.request,
        run.verdicts,
        attention,
        _fed_back(run, sequences),
        changeable,
        # Of an answer that is returned, all but the last token went through the model.
        searched={row: max(len(tokens) - 1, 0) for row, tokens in exchanged.items()},
    )
    verdicts = _refuse_unfound(_refuse_broken(run), searched)
    if run.reads is not None:
        all_doses = run.reads.doses(all_doses, _fed_back(run, sequences))
        verdicts = run.reads.verdicts(verdicts)
    rows = returned_rows(run)
    fitted = fitted_template(engine, run)
    refused = {index: fitted.ids for index, row in enumerate(rows) if verdicts[row].applied == "refuse"}
    replaced = {index: exchanged[row] for index, row in enumerate(rows) if row in exchanged} | refused
    if replaced:
        _require_no_step_records(output)
        sequences = replace_rows(sequences, prompt_width=settings.prompt_width, rows=replaced, pad=settings.pad)
    own = generated_ids(sequences, settings)
    # A kept answer may hold the padding id; its search knows where it ended.
    kept = {index: searched[row].own for index, row in enumerate(rows) if row in searched}
    answers = tuple(replaced.get(index, kept.get(index, ids)) for index, ids in enumerate(own))
    reached = [
        replace(one, row=index) for index, row in enumerate(rows) if row in searched for one in searched[row].exceeded
    ]
    decisions = tuple(
        sequence_decision(
            engine,
            run,
            request_id,
            index,
            verdicts[row],
            all_doses[row],
            len(prompts[row]),
            answers[index],
            fitted,
            searched[row].report if row in searched else None,
        )
        for index, row in enumerate(rows)
    )
    return GuidedResult(
        output=_replaced(output, sequences, refused=bool(replaced)),
        decisions=decisions,
        prompts=tuple(prompts[row] for row in rows),
        answers=answers,
        prompt_width=settings.prompt_width,
        exceeded=(*before_answers(run.request.exceeded, rows, decisions), *reached),
    )


def returned_rows(run: GuidedLoop) -> tuple[int, ...]:
    """Return a row of the loop for each returned sequence: the first rows of its prompt stand for as many."""
    settings = run.settings
    return tuple(
        first + answer for first in range(0, run.request.rows, settings.copies) for answer in range(settings.answers)
    )


def fitted_template(engine: Engine, run: GuidedLoop) -> FittedTemplate:
    """Return the refusal template fitted to what may be generated."""
    ends = run.settings.end_ids
    return engine.template.fit(run.settings.limit, ends[0] if ends else None)


def sequence_decision(
    engine: Engine,
    run: GuidedLoop,
    request_id: str,
    index: int,
    verdict: RowVerdict,
    row_doses: tuple[Dose, ...],
    prompt_tokens: int,
    answer: tuple[int, ...],
    fitted: FittedTemplate,
    search: SearchReport | None = None,
) -> Decision:
    """Return the account of one returned sequence.

    The tokens of beams that are not returned are spread over the returned sequences of their prompt, so that the
    usages of a batch add up to what went through the model.
    """
    settings = run.settings
    refused = verdict.applied == "refuse"
    generated = len(answer)
    if settings.beams and not refused and answer:
        generated = _share(settings.copies * run.passes, settings.answers, index)
    extra = engine.program.plan.cost.extra_forward_tokens(prompt_tokens, extra_passes=run.request.extra_passes)
    extra_searched = 0 if search is None else search.forward_tokens
    return decision(
        run.request,
        request_id=request_id,
        row=index,
        mode=engine.mode,
        verdict=verdict,
        row_doses=row_doses,
        usage=Usage(
            prompt_tokens=prompt_tokens,
            cached_tokens=_cached(run.request, index // settings.answers * settings.copies),
            generated_tokens=generated,
            extra_forward_tokens=_share(settings.copies * extra, settings.answers, index) + extra_searched,
        ),
        search=search,
        template_cut=refused and fitted.cut,
    )


def _cached(request: GuidedRequest, row: int) -> int:
    """Return how many tokens of a row's prompt lay in a cache; waits for the device where any did."""
    return int(request.prompt_mask[row, : request.first_column].sum()) if request.first_column else 0


def _share(total: int, parts: int, index: int) -> int:
    """Return one part of a total that is spread as evenly as whole tokens allow; the first parts get what is over."""
    return total // parts + (index % parts < total % parts)


def _fed_back(run: GuidedLoop, sequences: Tensor) -> int:
    """Return how many generated tokens of each row went through the model, from what the loop shows.

    Without beams the returned sequences tell it, and the loop must agree. Beam search returns sequences that may have
    ended before its last step, so there only the loop's own steps tell it, and no sequence can be longer.
    """
    generated = sequences.shape[1] - run.settings.prompt_width
    if generated > run.passes or (generated != run.passes and not run.settings.beams):
        raise GuidanceDidNotFireError(
            "The returned sequences do not have the length of the loop that made them.",
            expected=f"{run.passes} generated tokens",
            found=f"{generated} generated tokens",
            where="decoding loop",
            next_step="Look for code that changes transformers' decoding loop.",
        )
    return run.passes - 1


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


def _refuse_unfound(verdicts: tuple[RowVerdict, ...], searched: Mapping[int, RowSearch]) -> tuple[RowVerdict, ...]:
    """Turn rows for which a search found nothing into refusals."""
    found = list(verdicts)
    for row, search in searched.items():
        if search.refused_because is not None:
            verdict = found[row].verdict
            refusal = Verdict(rules=verdict.rules, action="refuse", use=(), cause=search.refused_because)
            found[row] = replace(found[row], applied="refuse", verdict=refusal)
    return tuple(found)


def generated_ids(sequences: Tensor, settings: LoopSettings) -> list[tuple[int, ...]]:
    """Return the generated ids of each sequence up to its end, without padding.

    Args:
        sequences: int64 `[sequences, width]`, prompts included.
        settings: what the loop was asked for.
    """
    generated = sequences[:, settings.prompt_width :].tolist()
    return [_answer(ids, settings.end_ids, settings.pad) for ids in generated]


def _require_no_step_records(output: Any) -> None:
    found = [] if isinstance(output, torch.Tensor) else [name for name in STEP_RECORDS if output.get(name) is not None]
    if found:
        raise UnsupportedGenerationError(
            "An answer was refused or exchanged, and what the model computed for it must not be returned.",
            expected="sequences only, in a batch with such rows",
            found=", ".join(f"`{name}`" for name in found),
            where="generate",
            next_step="Ask again without these outputs, or leave the refused prompts out.",
        )


def _answer(ids: list[int], end_ids: tuple[int, ...], pad: int) -> tuple[int, ...]:
    """Return the generated ids of one sequence up to its end, without the padding of a finished one."""
    for index, token in enumerate(ids):
        if token in end_ids:
            return tuple(ids[: index + 1])
    # Beam search fills with -1 where there is neither padding nor end.
    while ids and (ids[-1] == pad or ids[-1] < 0):
        ids = ids[:-1]
    return tuple(ids)


def _replaced(output: Any, sequences: Tensor, *, refused: bool) -> Any:
    """Return the output with other sequences."""
    if isinstance(output, torch.Tensor):
        return sequences
    output["sequences"] = sequences
    if refused and "beam_indices" in output:
        output["beam_indices"] = None
    return output
