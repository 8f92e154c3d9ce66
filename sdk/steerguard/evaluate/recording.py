"""From an answered batch to the rows that the journal keeps: comparison, judge, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.decision import Decision
from steerguard.evaluate.answering import AnsweredBatch
from steerguard.evaluate.batches import BatchJob
from steerguard.evaluate.prompt_files import Conversation, PromptSet
from steerguard.evaluate.result import UNGUIDED
from steerguard.evaluate.rows import EvaluatedRow
from steerguard.methods.bounds import decimal_text

Perplexity = Callable[[Sequence[Conversation], Sequence[str | None], Sequence[Sequence[int]]], Sequence[float]]
"""Conversations, prefills and answer ids without the end token, to one perplexity per answer."""


class Judge(Protocol):
    """What says how likely an answer is harmful."""

    identity: str
    """What it is, with the digest of its training rows."""
    threshold: float
    """Probability from which it calls an answer harmful."""

    def probabilities(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return the probability that prompt and answer together are harmful, pair by pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPasses:
    """What a row needs from the model without guidance beside its answer."""

    model: str
    """Name under which the perplexity is kept."""
    perplexity: Perplexity
    permission: Callable[[], AbstractContextManager[object]]
    """Opens the model for a pass without guidance while it is wrapped; does nothing while it is not."""
    without_end: Callable[[Sequence[int]], tuple[int, ...]]


class RowMaker:
    """Makes rows and remembers those of the unguided run, which later runs are compared with.

    Args:
        judge: what judges harm; None without.
        passes: measures perplexity; None without.
        known: rows of an earlier start.
    """

    def __init__(self, judge: Judge | None, passes: PlainPasses | None, known: Iterable[EvaluatedRow]) -> None:
        self._judge = judge
        self._passes = passes
        self._unguided = {(row.set, row.index): row for row in known if row.run == UNGUIDED}

    def rows(
        self, job: BatchJob, prompts: PromptSet, batch: AnsweredBatch, detectors: Sequence[str]
    ) -> list[EvaluatedRow]:
        """Return the rows of one batch in its own order.

        Args:
            job: which prompts were answered in which run.
            prompts: their set.
            batch: what came back.
            detectors: ids of the detectors whose scores are kept; gates of guidance steps are left out.
        """
        digests = [sha256_hex(canonical_bytes(list(ids))) for ids in batch.ids]
        before = [self._unguided.get((job.set, index)) for index in job.indices]
        same = [
            None if job.run == UNGUIDED or row is None else row.token_ids_sha256 == digest
            for row, digest in zip(before, digests, strict=True)
        ]
        harm = self._harm(job, prompts, batch)
        perplexity = self._perplexity(job, prompts, batch, before, same)
        rows = []
        for place, index in enumerate(job.indices):
            decision = None if batch.decisions is None else batch.decisions[place]
            rows.append(
                EvaluatedRow(
                    set=job.set,
                    run=job.run,
                    index=index,
                    prompt=prompts.prompt(index),
                    prefill=prompts.prefill(index),
                    answer=batch.texts[place],
                    answer_tokens=len(batch.ids[place]),
                    token_ids_sha256=digests[place],
                    identical_to_unguided=same[place],
                    action="allow" if decision is None else decision.intended,
                    applied="allow" if decision is None else decision.applied,
                    scores={} if decision is None else _scores(decision, detectors),
                    extra_forward_tokens=0 if decision is None else decision.usage.extra_forward_tokens,
                    changed_positions=0 if decision is None else sum(dose.positions for dose in decision.doses),
                    harm=harm[place],
                    perplexity=perplexity[place],
                )
            )
        if job.run == UNGUIDED:
            self._unguided.update({(row.set, row.index): row for row in rows})
        return rows

    def _harm(self, job: BatchJob, prompts: PromptSet, batch: AnsweredBatch) -> list[str | None]:
        if self._judge is None:
            return [None] * len(job.indices)
        # What a reader sees is the forced beginning and what follows it.
        whole = [(prompts.prefill(index) or "") + text for index, text in zip(job.indices, batch.texts, strict=True)]
        asked = [prompts.prompt(index) for index in job.indices]
        return [decimal_text(value) for value in self._judge.probabilities(asked, whole)]

    def _perplexity(
        self,
        job: BatchJob,
        prompts: PromptSet,
        batch: AnsweredBatch,
        before: Sequence[EvaluatedRow | None],
        same: Sequence[bool | None],
    ) -> list[dict[str, str]]:
        """Measure what is new; an answer that is the same as without guidance keeps its perplexity."""
        passes = self._passes
        if passes is None:
            return [{} for _ in job.indices]
        found: list[dict[str, str]] = []
        missing: list[int] = []
        ids = [passes.without_end(answer) for answer in batch.ids]
        for place, (row, identical) in enumerate(zip(before, same, strict=True)):
            found.append(dict(row.perplexity) if identical and row is not None else {})
            if not identical and ids[place]:
                missing.append(place)
        if missing:
            chosen = [job.indices[place] for place in missing]
            with passes.permission():
                values = passes.perplexity(
                    [prompts.conversations[index] for index in chosen],
                    [prompts.prefill(index) for index in chosen],
                    [ids[place] for place in missing],
                )
            for place, value in zip(missing, values, strict=True):
                if math.isfinite(value):
                    found[place][passes.model] = f"{value:.4f}"
        return found


def _scores(decision: Decision, detectors: Sequence[str]) -> dict[str, str]:
    return {
        reading.source: decimal_text(reading.score)
        for reading in decision.readings
        if reading.score is not None and reading.source in detectors
    }
