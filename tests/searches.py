"""Searches over tiny vocabularies: random tables, random costs, and the parts of a search with defaults."""

from __future__ import annotations

import random

import torch

from steerguard.guidance.search.ledger import Ledger
from steerguard.guidance.search.loop import SearchStart, search
from steerguard.guidance.search.search_guidance import SearchGuidance
from steerguard.methods.search_parts import SearchParts
from steerguard.testing import TokenCost, TokenTable

FULL = 10**6
"""As N and K: more than there are answers."""
PARTS = {
    "candidates": 4,
    "block_tokens": 2,
    "keep": 2,
    "retries": 1,
    "start": "always",
    "final_check": "cost_model",
    "value": "cost",
    "tracks_safety": True,
}


def guidance_of(cost_of, *, budget=1.0, critic=None, **parts):
    """A search with these parts; a critic, where one is given, is used."""
    return SearchGuidance(
        step="search",
        method="inference_guard",
        parts=SearchParts(**PARTS | {"uses_critic": critic is not None} | parts),
        cost_budget=budget,
        cost_budget_fpr=None,
        cost=TokenCost(cost_of),
        critic=critic,
    )


def run_search(proposer, guidance, *, limit=4, ledger=None, start=None):
    """Search from the beginning, without a budget unless one is given."""
    start = start or SearchStart(z=guidance.cost_budget)
    return search(proposer, guidance, ledger or Ledger(), limit=limit, start=start)


def random_table(seed, *, tokens=3):
    """A table over so many tokens, the last of which ends an answer; some tokens cannot follow some others."""
    draw = random.Random(seed)

    def row():
        weights = [draw.choice([0.0, 1.0, 2.0, 3.0]) for _ in range(tokens)]
        total = sum(weights)
        return tuple(weight / total for weight in weights) if total else (1.0, *[0.0] * (tokens - 1))

    return TokenTable(first=row(), after=tuple(row() for _ in range(tokens)), end=tokens - 1)


def random_costs(seed):
    """A cost for every answer and beginning of one, from few values, so that there are ties; exact in float32."""
    return lambda tokens: random.Random(f"{seed} {tokens}").choice([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.5])


def coin_table():
    """Tokens 0 and 1, equally likely, until the limit; token 2, the end, never comes."""
    return TokenTable(first=(0.5, 0.5, 0.0), after=((0.5, 0.5, 0.0),) * 3, end=2)


class FakeCritic:
    """A critic that answers from two functions of the answer's text and z."""

    def __init__(self, ends_safe, cost_to_go=lambda *_: 0.0):
        self.ends_safe = ends_safe
        self.cost_to_go = cost_to_go
        self.seen = []

    def values(self, inputs, z):
        self.seen.append((tuple(inputs.answers), tuple(z.tolist())))
        rows = list(zip(inputs.answers, z.tolist(), strict=True))
        return (
            torch.tensor([self.ends_safe(*row) for row in rows]),
            torch.tensor([self.cost_to_go(*row) for row in rows]),
        )
