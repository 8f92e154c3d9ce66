"""From a request's tensors to verdicts and decisions per row: one transfer from the device, then plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from steerguard.decision import Decision, Dose, Reading, Threshold, Usage
from steerguard.engine.copies import strictest
from steerguard.engine.hooks import named
from steerguard.engine.schedules import expected_positions
from steerguard.errors import GuidanceDidNotFireError
from steerguard.policy.rules import Verdict, decide, near

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from steerguard.decision import Action, SearchReport
    from steerguard.engine.request import GuidedRequest
    from steerguard.guidance.intervention import Intervention
    from steerguard.plan.plan import Mode, Plan

SMALLEST_POSITIVE = 2.0**-149
"""A linear gate opens where its score is above zero: at least the smallest positive float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowVerdict:
    """What was decided for one row at the end of its generation prompt."""

    scores: Mapping[str, float]
    """By detector; not a number where the model's state was not finite."""
    gate_scores: Mapping[Intervention, float]
    """By linear gate; not a number where the model's state was not finite."""
    verdict: Verdict
    applied: Action
    open: tuple[Intervention, ...]
    """Interventions whose gate is open for this row."""
    answer_readings: tuple[Reading, ...] = ()
    """What answer watches read while the answer was written."""


def read_verdicts(request: GuidedRequest, mode: Mode) -> tuple[RowVerdict, ...]:
    """Take the verdicts of a request after its prefill.

    Raises:
        GuidanceDidNotFireError: a hook did not run, or the device opened other gates than the rules say.
    """
    request.require_complete()
    host = _to_host(
        {
            **{("score", name): tensor for name, tensor in request.scores.items()},
            **{("step", name): tensor for name, tensor in request.open.items()},
            **{("gate", item): tensor for item, tensor in request.gates.items()},
            **{("gate score", item): tensor for item, tensor in request.gate_scores.items()},
        }
    )
    copies = request.copies
    return tuple(
        verdict
        for first in range(0, request.rows, copies)
        for verdict in _prompt_verdicts(request, mode, range(first, first + copies), host)
    )


def _prompt_verdicts(
    request: GuidedRequest, mode: Mode, rows: range, host: Mapping[tuple[str, object], list[float]]
) -> tuple[RowVerdict, ...]:
    """Return the verdicts of the copies of one prompt: the same for all of them, the strictest that any copy gives."""
    plan = request.program.plan
    scores = [{name: host["score", name][row] for name in request.scores} for row in rows]
    own = [_verdict(request, row, found) for row, found in zip(rows, scores, strict=True)]
    together = strictest(own, rules=[rule.id for rule in plan.rules], guidance=[step.id for step in plan.steps])
    deciding = next(index for index, verdict in enumerate(own) if verdict.action == together.action)
    gate_scores = {item: _highest([host["gate score", item][row] for row in rows]) for item in request.gate_scores}
    verdict = _with_readable_gates(together, gate_scores)
    for row in rows:
        _require_agreement(request, row, verdict, host)
    return tuple(
        RowVerdict(
            scores=scores[deciding],
            gate_scores=gate_scores,
            verdict=verdict,
            applied=verdict.action if mode == "enforce" else "allow",
            open=tuple(item for item in request.gates if host["gate", item][row]),
        )
        for row in rows
    )


def _highest(scores: list[float]) -> float:
    """Return the highest score, or one that is not finite: the one that opens a gate, or refuses the prompt."""
    return next((score for score in scores if not math.isfinite(score)), max(scores))


def _require_agreement(
    request: GuidedRequest, row: int, verdict: Verdict, host: Mapping[tuple[str, object], list[float]]
) -> None:
    for step in request.open:
        opened = bool(host["step", step][row])
        if opened != (verdict.action == "guide" and step in verdict.use):
            raise GuidanceDidNotFireError(
                "The gate on the device disagrees with the rules.",
                expected="open" if not opened else "closed",
                found="open" if opened else "closed",
                where=f"guidance entry `{step}`, row {row}",
                next_step="Report this: scores must be read again after every change of the model.",
            )


def _verdict(request: GuidedRequest, row: int, scores: Mapping[str, float]) -> Verdict:
    plan = request.program.plan
    if request.revoked:
        return Verdict(rules=(), action="refuse", use=(), cause="revoked")
    if not request.recognised[row]:
        today = datetime.now(UTC).date().isoformat()
        return Verdict(rules=(), action=plan.unrecognised_prompt.on(today), use=(), cause="unrecognised_prompt")
    if not all(math.isfinite(score) for score in scores.values()):
        return Verdict(rules=(), action="refuse", use=(), cause="non_finite")
    if not request.within_budget[row]:
        return Verdict(rules=(), action="refuse", use=(), cause="budget")
    order = tuple(step.id for step in plan.steps)
    return decide(plan.rules, plan.default_action, plan.default_use, scores, guidance=order, tolerances=plan.tolerances)


def _with_readable_gates(verdict: Verdict, gate_scores: Mapping[Intervention, float]) -> Verdict:
    """Refuse a guided row with a linear gate that is not finite: a gate that cannot be read must not count as closed.

    Gates of steps that the verdict does not use decide nothing, so their scores do not matter.
    """
    if all(math.isfinite(score) for item, score in gate_scores.items() if item.step in verdict.use):
        return verdict
    return Verdict(rules=verdict.rules, action="refuse", use=(), cause="non_finite")


def _to_host(tensors: Mapping[tuple[str, object], Tensor]) -> dict[tuple[str, object], list[float]]:
    """Return every tensor as floats, with one transfer. float32 and bool survive unchanged."""
    if not tensors:
        return {}
    device = next(iter(tensors.values())).device
    stacked = torch.stack([tensor.to(device=device, dtype=torch.float32) for tensor in tensors.values()])
    return dict(zip(tensors, stacked.tolist(), strict=True))


def readings(plan: Plan, verdict: RowVerdict) -> tuple[Reading, ...]:
    """Return every number that was read for one row, each with the bounds that it was compared with.

    A prompt without a recognisable end has no place where a detector could read, so it has no readings.
    """
    if verdict.verdict.cause == "unrecognised_prompt":
        return ()
    found = [_reading(plan, name, score) for name, score in verdict.scores.items()]
    for item, score in verdict.gate_scores.items():
        bound = Threshold(rule=item.step, bound="at_least", value=SMALLEST_POSITIVE)
        found.append(Reading(source=item.source, score=score if math.isfinite(score) else None, thresholds=(bound,)))
    return (*found, *verdict.answer_readings)


def _reading(plan: Plan, detector: str, score: float) -> Reading:
    thresholds, tolerance = _thresholds(plan, detector), plan.tolerances[detector]
    around = [near(threshold.value, tolerance) for threshold in thresholds]
    return Reading(
        source=detector,
        score=score if math.isfinite(score) else None,
        thresholds=thresholds,
        tolerance=tolerance,
        near=any(first <= score < end for first, end in around),
    )


def _thresholds(plan: Plan, detector: str) -> tuple[Threshold, ...]:
    found: list[Threshold] = []
    for rule in plan.rules:
        for place, comparison in rule.comparisons:
            if comparison.detector != detector:
                continue
            where = place or None
            if comparison.at_least is not None:
                bound = comparison.at_least
                found.append(Threshold(rule=rule.id, bound="at_least", value=bound.value, fpr=bound.fpr, place=where))
            if comparison.below is not None:
                bound = comparison.below
                found.append(Threshold(rule=rule.id, bound="below", value=bound.value, fpr=bound.fpr, place=where))
    return tuple(found)


def doses(
    request: GuidedRequest,
    verdicts: Sequence[RowVerdict],
    attention: Sequence[list[int]],
    fed_back: int,
    changeable: Sequence[list[int]],
    searched: Mapping[int, int] = MappingProxyType({}),
) -> tuple[tuple[Dose, ...], ...]:
    """Count what was changed in each row and prove that it is what the plan asked for.

    The counts come from the hooks; the expectation comes from the prompt's mask and the number of returned tokens.

    Args:
        request: the finished request.
        verdicts: its verdicts.
        attention: 1 or 0 per prompt column, per row.
        fed_back: generated tokens of each row that went through the model.
        changeable: 1 or 0 per prompt column, per row: what an entry may change that leaves modality tokens out.
        searched: by row whose answer a search exchanged, how many of its tokens went through the model; whoever drew
            them has counted every pass.

    Raises:
        GuidanceDidNotFireError: a count differs.
    """
    _require_passes(request, fed_back)
    changed = {
        item: [
            in_prompt + in_decode
            for in_prompt, in_decode in zip(counted.tolist(), request.changed_in_decode(item), strict=True)
        ]
        for item, counted in request.changed.items()
    }
    return tuple(
        _row_doses(request, row, verdict, changed, attention[row], fed_back, changeable[row], searched.get(row))
        for row, verdict in enumerate(verdicts)
    )


def _require_passes(request: GuidedRequest, fed_back: int) -> None:
    """Prove that each decode hook saw every generated token, or every one up to its last step, exactly once.

    Steps that follow one another must not be counted by their sum alone: a pass too many would shift all later ones.
    """
    for place, passes in request.decode_passes.items():
        wanted = min(fed_back, request.decode_ends.get(place, fed_back))
        if passes != wanted:
            raise _other_count(wanted, passes, f"decode steps at {named(place)}")


def _row_doses(
    request: GuidedRequest,
    row: int,
    verdict: RowVerdict,
    changed: Mapping[Intervention, list[int]],
    attention: list[int],
    fed_back: int,
    changeable: list[int],
    searched: int | None,
) -> tuple[Dose, ...]:
    steps: dict[str, list[tuple[Intervention, int, int]]] = {}
    for item in verdict.open:
        found = changed[item][row]
        expected = partial(
            expected_positions,
            item.schedule,
            attention=attention,
            end=request.columns[row],
            changeable=changeable if item.modality_tokens == "exclude" else attention,
        )
        wanted = expected(fed_back=fed_back)
        if searched is not None:
            # The loop's own steps are exchanged for those of the search.
            other = expected(fed_back=searched)
            found, wanted = found + other - wanted, other
        steps.setdefault(item.step, []).append((item, found, wanted))
    result: list[Dose] = []
    for planned in request.program.plan.steps:
        entries = steps.get(planned.id)
        if not entries:
            continue
        for item, found, wanted in entries:
            if found != wanted:
                raise _other_count(wanted, found, f"{item.source}, row {row}")
        result.append(
            Dose(
                step=planned.id,
                method=planned.method,
                open_blocks=tuple(sorted({item.block for item, _, _ in entries})),
                coefficient=planned.coefficient,
                positions=sum(found for _, found, _ in entries),
                expected_positions=sum(wanted for _, _, wanted in entries),
            )
        )
    return tuple(result)


def _other_count(wanted: int, found: int, where: str) -> GuidanceDidNotFireError:
    return GuidanceDidNotFireError(
        "An intervention acted on another number of positions than the plan requires.",
        expected=f"{wanted} positions",
        found=f"{found} positions",
        where=where,
        next_step="Unwrap and wrap the model again; a compiled forward pass does not run hooks.",
    )


def decision(
    request: GuidedRequest,
    *,
    request_id: str,
    row: int,
    mode: Mode,
    verdict: RowVerdict,
    row_doses: tuple[Dose, ...],
    usage: Usage,
    search: SearchReport | None = None,
    template_cut: bool,
) -> Decision:
    """Return the complete account of one row."""
    return Decision(
        request=request_id,
        row=row,
        mode=mode,
        readings=readings(request.program.plan, verdict),
        rules=verdict.verdict.rules,
        cause=verdict.verdict.cause,
        intended=verdict.verdict.action,
        applied=verdict.applied,
        doses=row_doses,
        usage=usage,
        search=search,
        template_cut=template_cut,
    )
