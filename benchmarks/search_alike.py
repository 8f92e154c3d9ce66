"""Whether best-of-8 out of kept answers is what the policy `best_of_n` gives: both from one seed, prompt by prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prompt_groups import PromptGroup
from search_draws import COPIES, draws_of
from search_runs import Method, cheapest
from search_sets import SEED, batches, sampled, trimmed

import steerguard
from steerguard.critics.response_states import ResponseStatesCost

PROMPTS = 8
BEST_OF_8 = Method(
    "best_of_8",
    "best-of-8, as a policy",
    f"method: best_of_n, candidates: {COPIES}, start: always, final_check: none",
)


def alike(
    model: Any,
    tokenizer: Any,
    group: PromptGroup,
    cost: ResponseStatesCost,
    reference: str,
    *,
    registry: Path | None,
    tokens: int,
    folder: Path,
) -> list[bool]:
    """Return for the first prompts whether both give the same tokens; kept in the folder.

    Args:
        model: unwrapped.
        tokenizer: its tokenizer.
        group: the set.
        cost: says what answers cost.
        reference: of its artifact.
        registry: where it comes from; None is the shipped one.
        tokens: most new tokens of an answer.
        folder: of this cost model.
    """
    file = folder / f"alike.{group.id}.json"
    if file.is_file():
        kept: list[bool] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    asked = list(batches(tokenizer, _first(group), 1))
    own = [
        cheapest(draws_of(model, tokenizer, one, tokens=tokens, seed=SEED), cost, COPIES, checked=False)
        for one in asked
    ]
    wrapped = steerguard.wrap(model, BEST_OF_8.policy(reference), tokenizer=tokenizer, registry=registry)
    try:
        by_policy = [sampled(wrapped, one, tokens=tokens) for one in asked]
    finally:
        steerguard.unwrap(wrapped)
    end = tokenizer.eos_token_id
    found = [rows[0].tokens == trimmed(ids[0].tolist(), end) for rows, ids in zip(own, by_policy, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found), encoding="utf-8")
    return found


def _first(group: PromptGroup) -> PromptGroup:
    prefills = group.prefills and group.prefills[:PROMPTS]
    return PromptGroup(group.id, group.title, group.chats[:PROMPTS], prefills)
