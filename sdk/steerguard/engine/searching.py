"""The searches of one batch, once its loop has ended: whose answer stays, who searches from where, what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch

from steerguard.critics.cost import CostInputs
from steerguard.decision import SearchReport
from steerguard.engine.answer_states import AnswerSums
from steerguard.engine.branch_steps import BranchSteps, PrefilledRow
from steerguard.engine.exceeded import SEARCH_LIMITS, exceeded
from steerguard.engine.forks import kept_bytes, row_of
from steerguard.engine.loop_inputs import decode_inputs
from steerguard.engine.proposer import Prefixes, TransformersProposer
from steerguard.errors import CostModelError
from steerguard.guidance.search.ledger import Ledger
from steerguard.guidance.search.loop import Found, SearchStart, search
from steerguard.guidance.search.safety_state import state_after
from steerguard.plan.search_cost import chooses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from steerguard.decision import Cause, SearchOutcome
    from steerguard.engine.call_trace import CallTrace
    from steerguard.engine.exceeded import ExceededLimit
    from steerguard.engine.loop import GuidedLoop
    from steerguard.engine.search_rows import SearchRows
    from steerguard.guidance.search.search_guidance import SearchGuidance

BUDGET_OUTCOMES = frozenset({"forward_tokens", "memory"})
"""Outcomes with which a fallback may be tried; where the time is up it is up for a fallback too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSearch:
    """What came of the search for one row."""

    tokens: tuple[int, ...] | None
    """What is returned in place of the loop's own answer; None keeps that, or the row is refused."""
    report: SearchReport
    refused_because: Cause | None
    """None where an answer is returned."""
    own: tuple[int, ...]
    """What the loop wrote, without padding; it is returned where `tokens` and `refused_because` are None."""
    exceeded: tuple[ExceededLimit, ...] = ()
    """The limits that ended a search without an answer, in order; `row` is the row of the loop."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """What the searches of one batch share."""

    model: Any
    run: GuidedLoop
    rows: SearchRows
    prompt_ids: Tensor
    """int64 `[rows, prompt width]`, padding included."""
    prompts: Sequence[tuple[int, ...]]
    """Token ids of each prompt, without padding."""
    loop_arguments: Mapping[str, Any]
    processors: Callable[[Tensor, Tensor], Tensor]
    criteria: Callable[[Tensor, Any], Tensor]
    asked: Callable[[int], str]
    """Returns what a row asks, as text."""
    text: Callable[[Sequence[int]], str]


def search_rows(
    batch: Batch, answers: Sequence[tuple[int, ...]], skipped: set[int], trace: CallTrace
) -> dict[int, RowSearch]:
    """Search for every row that must be searched for.

    Args:
        batch: the batch, its loop ended.
        answers: what the loop generated for each row until the row ended; filler where a row searches from its first block.
        skipped: rows that are refused already.
        trace: the call, which learns what is worked on.

    Returns:
        By row, what came of it; rows without a search are missing.
    """
    if batch.rows.random is not None:
        batch.rows.random.restore()
    trace.stage = "guide"
    found: dict[int, RowSearch] = {}
    ledgers: dict[int, Ledger] = {}
    for row, guidance in enumerate(batch.rows.guidance):
        if guidance is not None and row not in skipped:
            # All answers to one prompt are one request.
            prompt = row // batch.run.settings.copies
            if prompt not in ledgers:
                ledgers[prompt] = _ledger(batch, row)
                # Rows wait for each other, so there is one time for all of them.
                ledgers[prompt].began = next(iter(ledgers.values())).began
            trace.row = row
            found[row] = _RowSearcher(batch, row, guidance, answers[row], ledgers[prompt]).run()
    trace.stage, trace.row = "generate", None
    return found


def _ledger(batch: Batch, row: int) -> Ledger:
    """Return the budget of one prompt, less what its passes before the prefill and the reading of prompts took."""
    request, plan = batch.run.request, batch.run.request.program.plan
    passes = plan.cost.extra_forward_tokens(len(batch.prompts[row]), extra_passes=request.extra_passes)
    limit = plan.max_extra_forward_tokens
    return Ledger(
        max_forward_tokens=None if limit is None else limit - request.copies * passes,
        max_latency_seconds=plan.max_added_latency_ms / 1000 - batch.rows.prompt_seconds,
    )


class _RowSearcher:
    """The search for one row, and the fallbacks of the policy where the budget ends it."""

    def __init__(
        self, batch: Batch, row: int, guidance: SearchGuidance, answer: tuple[int, ...], ledger: Ledger
    ) -> None:
        self._batch = batch
        self._row = row
        self._guidance = guidance
        self._answer = answer
        self._ledger = ledger
        self._spent_before = ledger.forward_tokens
        self._plain_cost: float | None = None
        self._exceeded: tuple[ExceededLimit, ...] = ()

    def run(self) -> RowSearch:
        """Return what came of it."""
        guidance = self._guidance
        try:
            start = SearchStart(z=guidance.cost_budget)
            if self._row in self._batch.rows.decided:
                return self._result(guidance, None, self._batch.rows.decided[self._row], start)
            if guidance.parts.start == "lazy":
                if self._says_nothing():
                    return self._kept()
                self._plain_cost = self._cost(guidance, self._batch.rows.sums, self._answer)
                if self._plain_cost is None:
                    return self._result(guidance, None, "non_finite", start)
                if self._plain_cost < guidance.cost_budget:
                    return self._kept()
                start = self._last_safe_block()
            if not chooses(guidance.parts):
                return self._result(guidance, None, "no_candidate", start)
            found = self._search(guidance, start)
            plan = self._batch.run.request.program.plan
            for step in plan.fallback:
                if found.tokens is not None or found.outcome not in BUDGET_OUTCOMES:
                    break
                self._reached(found, then="fallback")
                guidance = next(item for item in self._searches() if item.step == step)
                start = SearchStart(z=guidance.cost_budget)
                found = self._search(guidance, start)
            self._reached(found, then="refuse")
            return self._result(guidance, found, found.outcome, start)
        except CostModelError:
            return self._result(guidance, None, "critic_failed", SearchStart(z=guidance.cost_budget))

    def _reached(self, found: Found, *, then: Literal["refuse", "fallback"]) -> None:
        """Note the limit that ended a search without an answer, if it was one."""
        limit, plan, ledger = SEARCH_LIMITS.get(found.outcome), self._batch.run.request.program.plan, self._ledger
        if limit is None or found.tokens is not None:
            return
        spent = None
        if limit == "max_extra_forward_tokens" and plan.max_extra_forward_tokens is not None:
            # What the passes before took lowered the limit of the ledger.
            spent = plan.max_extra_forward_tokens - (ledger.max_forward_tokens or 0) + ledger.forward_tokens
        elif limit == "max_added_latency_ms":
            spent = plan.max_added_latency_ms + round(ledger.overshoot_seconds() * 1000)
        self._exceeded += exceeded(plan, self._row, limit, spent, then=then)

    def _says_nothing(self) -> bool:
        """Return whether the loop's own answer has no token but ends of the turn."""
        return not set(self._answer) - set(self._batch.run.settings.end_ids)

    def _searches(self) -> tuple[SearchGuidance, ...]:
        return self._batch.run.request.program.searches

    def _cost(self, guidance: SearchGuidance, sums: AnswerSums | None, tokens: tuple[int, ...]) -> float | None:
        """Return what an answer costs; None where the number is not finite."""
        cost = float(guidance.cost.cost(self._inputs(guidance, sums, tokens))[0])
        return cost if math.isfinite(cost) else None

    def _inputs(self, guidance: SearchGuidance, sums: AnswerSums | None, tokens: tuple[int, ...]) -> CostInputs:
        if not guidance.cost.blocks:
            batch = self._batch
            return CostInputs(prompts=[batch.asked(self._row)], answers=[batch.text(tokens)])
        return self._own(guidance, sums).inputs()

    def _own(self, guidance: SearchGuidance, sums: AnswerSums | None) -> AnswerSums:
        """Return what was read of this row, at the blocks of one cost model."""
        rows, width = self._batch.rows, self._batch.run.request.program.plan.model.hidden_size
        if sums is None:
            return AnswerSums.nothing(1, len(guidance.cost.blocks), width, self._batch.prompt_ids.device)
        parts = [rows.blocks.index(block) for block in guidance.cost.blocks]
        own = sums.rows(torch.tensor([self._row]))
        return replace(own, sums=own.sums[:, parts], newest=own.newest[:, parts])

    def _last_safe_block(self) -> SearchStart:
        """Return where the loop's own answer was safe for the last time, from its beginning on without a gap."""
        guidance, rows = self._guidance, self._batch.rows
        start, size = SearchStart(z=guidance.cost_budget), guidance.parts.block_tokens
        costs: list[float] = [0.0]
        for tokens in range(size, len(self._answer), size) if size else ():
            if guidance.cost.blocks and tokens not in rows.boundaries:
                break
            cost = self._cost(guidance, rows.boundaries.get(tokens), self._answer[:tokens])
            if cost is None:
                break
            costs.append(cost)
            steps = [after - before for before, after in pairwise(costs)]
            z = state_after(guidance.cost_budget, steps, discount=guidance.parts.discount)
            if z <= 0:
                break
            # Marks that the memory limit had no room for are missing; the search then begins at an earlier one.
            if tokens in rows.marks:
                start = SearchStart(z=z, tokens=self._answer[:tokens], blocks=len(steps), cost=cost)
        return start

    def _search(self, guidance: SearchGuidance, start: SearchStart) -> Found:
        batch, ledger = self._batch, self._ledger
        if ledger.late():
            return _nothing("latency", guidance, start)
        held = _Held(batch, self._row, guidance, start)
        ledger.max_candidates = held.most_candidates(guidance)
        if not ledger.max_candidates or (start.tokens and not ledger.fits(1)):
            return _nothing("forward_tokens" if ledger.max_candidates else "memory", guidance, start)
        live = held.live(
            self._own(guidance, batch.rows.boundaries.get(len(start.tokens))) if guidance.cost.blocks else None
        )
        ledger.spend(int(bool(start.tokens)))
        proposer = TransformersProposer(held.row, live, fed=len(start.tokens))
        return search(proposer, guidance, ledger, limit=batch.run.settings.limit, start=start)

    def _kept(self) -> RowSearch:
        report = self._report(self._guidance, None, "kept", SearchStart(z=0.0))
        return RowSearch(tokens=None, report=report, refused_because=None, own=self._answer)

    def _result(
        self, guidance: SearchGuidance, found: Found | None, outcome: SearchOutcome, start: SearchStart
    ) -> RowSearch:
        tokens = None if found is None else found.tokens
        cause: Cause | None = None
        if tokens is None:
            causes: dict[str, Cause] = {
                "non_finite": "non_finite", "critic_failed": "critic_failed", "latency": "budget",
            }  # fmt: skip
            cause = causes.get(outcome, "budget" if outcome in BUDGET_OUTCOMES else "no_candidate")
        report = self._report(guidance, found, outcome, start)
        return RowSearch(tokens=tokens, report=report, refused_because=cause, own=self._answer, exceeded=self._exceeded)

    def _report(
        self, guidance: SearchGuidance, found: Found | None, outcome: SearchOutcome, start: SearchStart
    ) -> SearchReport:
        return SearchReport(
            step=guidance.step,
            method=guidance.method,
            outcome=outcome,
            cost=self._plain_cost if outcome == "kept" else None if found is None else found.cost,
            cost_budget=guidance.cost_budget,
            cost_budget_fpr=guidance.cost_budget_fpr,
            plain_cost=self._plain_cost,
            kept_tokens=len(self._answer) if outcome == "kept" else len(start.tokens),
            candidates=0 if found is None else found.candidates,
            candidates_drawn=0 if found is None else found.candidates_drawn,
            retries=0 if found is None else found.retries,
            halvings=0 if found is None else found.halvings,
            forward_tokens=self._ledger.forward_tokens - self._spent_before,
            late_ms=round(self._ledger.overshoot_seconds() * 1000),
        )


class _Held:
    """What the loop left of one row, brought to where a search begins."""

    def __init__(self, batch: Batch, row: int, guidance: SearchGuidance, start: SearchStart) -> None:
        self._batch = batch
        self._start = start
        run, rows = batch.run, batch.rows
        self._inputs, name, _ = decode_inputs(batch.loop_arguments, row)
        cache = row_of(rows.cache, row)
        rows.marks[len(start.tokens)].row(row).restore(cache)
        self.row = PrefilledRow(
            model=batch.model,
            engine=run.engine,
            request=run.request,
            row=row,
            opened=run.verdicts[row].open,
            settings=run.settings,
            processors=batch.processors,
            criteria=batch.criteria,
            temperature=guidance.parts.temperature,
            blocks=guidance.cost.blocks,
            cache=cache,
            cache_name=name,
            prompt="" if guidance.cost.blocks else batch.asked(row),
            text=batch.text,
        )

    def most_candidates(self, guidance: SearchGuidance) -> int:
        """Return how many candidates the budget allows at once, halved for as long as their caches are too large."""
        run, plan = self._batch.run, self._batch.run.request.program.plan
        count = min(guidance.parts.candidates, plan.max_candidates or guidance.parts.candidates)
        if plan.max_extra_memory_bytes is None:
            return count
        columns = self._batch.prompt_ids.shape[1] + max(len(self._start.tokens) - 1, 0)
        widest = self._batch.prompt_ids.shape[1] + run.settings.limit
        each = -(-kept_bytes(self.row.cache) * widest // columns)
        room = plan.max_extra_memory_bytes - plan.cost.extra_bytes(run.request.rows) - self._batch.rows.kept_bytes
        while count and count * each > room:
            count //= 2
        return count

    def live(self, sums: AnswerSums | None) -> Prefixes:
        """Return the prefix that the search begins with; where it is an answer already, its last token runs again."""
        row, start, logits = self.row, self._start, self._batch.rows.logits
        ids = self._batch.prompt_ids[row.row : row.row + 1]
        assert logits is not None
        if not start.tokens:
            return Prefixes(ids=ids, inputs=self._inputs, logits=logits[row.row : row.row + 1], sums=sums)
        answer = torch.tensor([start.tokens], dtype=ids.dtype, device=ids.device)
        fed = len(start.tokens) - 1
        inputs = self._inputs
        if fed:
            inputs = row.model._update_model_kwargs_for_generation({}, dict(inputs), num_new_tokens=fed)  # noqa: SLF001
        ids = torch.cat([ids, answer], dim=1)
        with BranchSteps(row, rows=1, fed=fed, most=1) as steps:
            inputs, found, _ = steps.run(ids, inputs)
        return Prefixes(ids=ids, inputs=inputs, logits=found, sums=sums)


def _nothing(outcome: Any, guidance: SearchGuidance, start: SearchStart) -> Found:
    """Return what a search comes to that the budget does not let begin."""
    return Found(
        tokens=None,
        cost=None,
        z=None,
        ended=False,
        outcome=outcome,
        draws=0,
        retries=0,
        candidates=guidance.parts.candidates,
        halvings=0,
        blocks=start.blocks,
        forward_tokens=0,
        candidates_drawn=0,
    )
