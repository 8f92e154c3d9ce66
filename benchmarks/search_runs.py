"""The methods of `search.py`, and what each of them returned for each prompt: run once, kept batch by batch in a folder."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from prompt_groups import PromptGroup
from search_draws import Draws
from search_sets import batches, sampled, trimmed

import steerguard
from steerguard.critics.response_states import ResponseStatesCost
from steerguard.decision import Decision, SearchOutcome
from steerguard.policy.document import Policy
from steerguard.policy.load import parse_policy

BATCH = 32
UNGUIDED, LAZY, ALWAYS = "unguided", "ig_8_lazy", "ig_8_always"
BEST_OF, BEST_OF_LAZY = "best_of_8", "best_of_8_lazy"
UNCHECKED = "best_of_8_unchecked"
GUARD = "method: inference_guard, block_tokens: 8, keep: 2, retries: 2, "
POLICY = """\
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {name: search, version: "1.0.0", description: Search for every answer, owner: benchmarks}
target: {modalities: [text]}
guidance:
  - {id: search, critic: CRITIC, ENTRY}
default: {action: guide, use: [search]}
budget:
  max_extra_forward_tokens: 8192
  max_candidates: 16
  max_added_latency_ms: 600000
  max_extra_memory_mib: 4096
streaming: {strategy: buffer}
refusal: {template: "I can't help with that request."}
"""


@dataclass(frozen=True, slots=True)
class Method:
    """One method with its settings."""

    id: str
    title: str
    entry: str
    """Fields of the guidance entry."""

    def policy(self, critic: str) -> Policy:
        """Return the policy that searches for every answer.

        Args:
            critic: reference of the cost model.
        """
        return parse_policy(POLICY.replace("ENTRY", self.entry).replace("CRITIC", critic), file=f"{self.id}.yaml")


METHODS = {
    method.id: method
    for method in (
        Method("ig_8_lazy", "InferenceGuard, N = 8, lazy", GUARD + "candidates: 8, start: lazy"),
        Method("ig_8_always", "InferenceGuard, N = 8, always", GUARD + "candidates: 8, start: always"),
        Method("ig_16_lazy", "InferenceGuard, N = 16, lazy", GUARD + "candidates: 16, start: lazy"),
        Method("ig_16_always", "InferenceGuard, N = 16, always", GUARD + "candidates: 16, start: always"),
        Method(
            "ig_8_lazy_fpr",
            "InferenceGuard, N = 8, lazy, budget {fpr: 0.05}",
            GUARD + "candidates: 8, start: lazy, cost_budget: {fpr: 0.05}",
        ),
        Method(
            "controlled_decoding",
            "controlled decoding, N = 8, always",
            "method: controlled_decoding, candidates: 8, block_tokens: 8, start: always",
        ),
        Method(
            "value_filter",
            "value filter, N = 8, lazy",
            "method: value_filter, candidates: 8, start: lazy, threshold: {value: THRESHOLD}",
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one method returned for one prompt."""

    tokens: list[int]
    """Generated ids up to and with the end token; of a refused row those of the template."""
    refused: bool
    cost: float | None
    """What the returned answer costs; None for a refusal, and where nothing was said."""
    plain_cost: float | None
    """What the unguided answer costs; None where none was written."""
    budget: float | None
    """d; None where nothing is searched for."""
    outcome: SearchOutcome | None
    forward_tokens: int
    """Token positions behind the prompt that went through the model; the unguided answer is not among those of a search
    that waits for it."""
    candidates: int
    retries: int


class Runs:
    """Rows by method and set, from the folder or from the model.

    Args:
        model: the packaged model, unwrapped.
        tokenizer: its tokenizer.
        registry: where cost models come from; None is the shipped one.
        folder: where rows are kept; made for one cost model.
        tokens: most new tokens of an answer.
    """

    def __init__(self, model: Any, tokenizer: Any, registry: Path | None, folder: Path, tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._registry = registry
        self._folder = folder
        self._tokens = tokens

    def kept(self, method: str, group: PromptGroup) -> list[Row]:
        """Return the rows that the folder has."""
        file = self._folder / f"{method}.{group.id}.json"
        if not file.is_file():
            return []
        names = {field.name for field in fields(Row)}
        return [Row(**{name: row[name] for name in names}) for row in json.loads(file.read_text(encoding="utf-8"))][
            : len(group.chats)
        ]

    def unguided(self, group: PromptGroup) -> list[Row]:
        """Return the rows without a policy; those that the folder lacks are generated."""
        rows = self.kept(UNGUIDED, group)
        for batch in batches(self._tokenizer, group, BATCH, start=len(rows)):
            self._say(UNGUIDED, group, batch.first)
            ids = sampled(self._model, batch, tokens=self._tokens)
            rows += [_unguided_row(trimmed(row, self._end)) for row in ids.tolist()]
            self._keep(UNGUIDED, group, rows)
        return rows

    def searched(self, method: Method, critic: str, group: PromptGroup, *, name: str) -> list[Row]:
        """Return the rows of a method; those that the folder lacks are generated.

        Args:
            method: how it searches.
            critic: reference of the cost model.
            group: the set.
            name: what the rows are kept under.
        """
        rows = self.kept(name, group)
        if len(rows) == len(group.chats):
            return rows
        model = steerguard.wrap(self._model, method.policy(critic), tokenizer=self._tokenizer, registry=self._registry)
        try:
            for batch in batches(self._tokenizer, group, BATCH, start=len(rows)):
                self._say(name, group, batch.first)
                with model.guard.collect() as decisions:
                    ids = sampled(model, batch, tokens=self._tokens)
                answers = [trimmed(row, self._end) for row in ids.tolist()]
                rows += [_searched_row(*pair) for pair in zip(answers, decisions, strict=True)]
                self._keep(name, group, rows)
        finally:
            steerguard.unwrap(model)
        return rows

    @property
    def _end(self) -> int:
        return int(self._tokenizer.eos_token_id)

    def _keep(self, method: str, group: PromptGroup, rows: list[Row]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{method}.{group.id}.json"
        staged = file.with_suffix(".part")
        staged.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
        staged.replace(file)

    @staticmethod
    def _say(method: str, group: PromptGroup, first: int) -> None:
        sys.stderr.write(f"{method}, {group.title}, from row {first}\n")


def cheapest(draws: Draws, cost: ResponseStatesCost, candidates: int, *, checked: bool) -> list[Row]:
    """Return what best-of-N gives: for each prompt the cheapest of its first N answers.

    Args:
        draws: answers that were drawn.
        cost: says what they cost.
        candidates: N.
        checked: whether an answer that is not within the budget is refused.
    """
    costs = cost.cost(draws.inputs(cost.blocks)).view(draws.read.shape)[:, :candidates]
    # An answer without any token has no cost, and is no candidate.
    best = torch.nan_to_num(costs, nan=torch.inf).argmin(dim=1).tolist()
    rows: list[Row] = []
    for index, (answers, choice) in enumerate(zip(draws.tokens, best, strict=True)):
        price = float(costs[index, choice])
        refused = checked and not price < cost.threshold
        row = Row(
            tokens=[] if refused else answers[choice],
            refused=refused,
            cost=None if refused else price,
            plain_cost=None,
            budget=cost.threshold,
            outcome="no_candidate" if refused else "found",
            forward_tokens=_fed(answers[:candidates]),
            candidates=candidates,
            retries=0,
        )
        rows.append(row)
    return rows


def cheapest_if_needed(plain: list[Row], found: list[Row]) -> list[Row]:
    """Return what best-of-N with `start: lazy` gives: the unguided answer where it is within the budget.

    Args:
        plain: unguided answers with their costs.
        found: what best-of-N gives for the same prompts, or for the first of them.
    """
    rows: list[Row] = []
    for own, other in zip(plain, found, strict=False):
        kept = own.cost is None or (own.budget is not None and own.cost < own.budget)
        spent = own.forward_tokens + (0 if kept else other.forward_tokens)
        rows.append(replace(own if kept else other, forward_tokens=spent, plain_cost=own.cost))
    return rows


def _fed(answers: list[list[int]]) -> int:
    """Return what N answers take that are drawn side by side: every pass is of all of them."""
    return len(answers) * (max(map(len, answers)) - 1)


def _unguided_row(answer: list[int]) -> Row:
    return Row(
        tokens=answer,
        refused=False,
        cost=None,
        plain_cost=None,
        budget=None,
        outcome=None,
        forward_tokens=len(answer) - 1,
        candidates=1,
        retries=0,
    )


def _searched_row(answer: list[int], decision: Decision) -> Row:
    report = decision.search
    if report is None:
        raise ValueError("a row was not searched for")
    return Row(
        tokens=answer,
        refused=decision.applied == "refuse",
        cost=report.cost,
        plain_cost=report.plain_cost,
        budget=report.cost_budget,
        outcome=report.outcome,
        forward_tokens=report.forward_tokens,
        candidates=report.candidates,
        retries=report.retries,
    )
