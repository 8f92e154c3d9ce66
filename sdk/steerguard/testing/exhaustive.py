"""Proposers and a cost model over a tiny vocabulary, for proofs about searches: no model, no tokenizer.

A token is a small number, a text is these numbers with spaces between, and a table says what follows what::

    table = TokenTable(first=(0.5, 0.3, 0.2), after=((0.1, 0.6, 0.3), (0.4, 0.4, 0.2), (0.0, 0.0, 1.0)), end=2)
    search(ExhaustiveProposer(table), guidance, Ledger(), limit=4, start=SearchStart(z=guidance.cost_budget))
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from steerguard.errors import CandidateMemoryError
from steerguard.guidance.search.proposer import Candidates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from steerguard.critics.cost import CostInputs
    from steerguard.methods.search_parts import Draw

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTable:
    """Probabilities of the next token, given the newest one."""

    first: tuple[float, ...]
    """Of the first token of an answer."""
    after: tuple[tuple[float, ...], ...]
    """By the newest token; the row of `end` is never used."""
    end: int
    """The token that ends an answer."""

    def following(self, tokens: Sequence[int]) -> tuple[float, ...]:
        """Return the probability of each token behind these."""
        return self.after[tokens[-1]] if tokens else self.first

    def continuations(self, tokens: Tokens, room: int) -> Iterator[Tokens]:
        """Yield every continuation of positive probability: of `room` new tokens, or fewer where it ends before."""
        for token, probability in enumerate(self.following(tokens)):
            if probability > 0.0 and (token == self.end or room == 1):
                yield (token,)
            elif probability > 0.0:
                yield from ((token, *rest) for rest in self.continuations((*tokens, token), room - 1))

    def log_prob(self, tokens: Tokens, new: Tokens) -> float:
        """Return the log-probability of new tokens behind others; minus infinity where they cannot follow."""
        answer = (*tokens, *new)
        chosen = [self.following(answer[:place])[answer[place]] for place in range(len(tokens), len(answer))]
        return sum(math.log(probability) if probability > 0.0 else -math.inf for probability in chosen)


class ExhaustiveProposer:
    """Proposes every continuation of every live prefix, once each, whatever the counts ask for and `avoid` says."""

    prompt = ""

    def __init__(self, table: TokenTable) -> None:
        self.table = table
        self._live: list[Tokens] = [()]
        self._drawn: list[Tokens] = []

    def propose(
        self, counts: Sequence[int], max_new_tokens: int, *, draw: Draw, avoid: Mapping[int, float] | None = None
    ) -> Candidates:
        """Return all continuations, those of the first prefix first, each in the order of its tokens."""
        del draw, avoid
        require_counts(counts, len(self._live), max_new_tokens)
        drawn = [
            (parent, new)
            for parent, tokens in enumerate(self._live)
            for new in self.table.continuations(tokens, max_new_tokens)
        ]
        self._drawn = [(*self._live[parent], *new) for parent, new in drawn]
        return candidates_of(self.table, self._live, drawn)

    def keep(self, chosen: Sequence[int]) -> None:
        """Make candidates of the last draw the live prefixes."""
        self._live = kept(self.table, self._drawn, chosen)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the tokens as numbers with spaces between."""
        return text_of(tokens)


class SampledProposer:
    """Draws one token after the other from a table, with a generator of its own; the same seed draws the same.

    Args:
        table: what follows what.
        seed: of the generator.
        most_rows: with more candidates at once, it reports that there is no memory for them; None: any number.
    """

    prompt = ""

    def __init__(self, table: TokenTable, seed: int, *, most_rows: int | None = None) -> None:
        self.table = table
        self.most_rows = most_rows
        self._random = random.Random(seed)  # noqa: S311 - draws for tests, no cryptography
        self._live: list[Tokens] = [()]
        self._drawn: list[Tokens] = []

    def propose(
        self, counts: Sequence[int], max_new_tokens: int, *, draw: Draw, avoid: Mapping[int, float] | None = None
    ) -> Candidates:
        """Draw continuations; with `top`, the most likely next tokens, each once.

        Raises:
            CandidateMemoryError: the counts ask for more than `most_rows`.
        """
        require_counts(counts, len(self._live), max_new_tokens)
        if self.most_rows is not None and sum(counts) > self.most_rows:
            raise CandidateMemoryError(
                "There is no memory for so many candidates.",
                expected=f"at most {self.most_rows}",
                found=sum(counts),
                next_step="Draw fewer at once.",
            )
        drawn: list[tuple[int, Tokens]] = []
        for parent, (tokens, count) in enumerate(zip(self._live, counts, strict=True)):
            if draw == "top":
                drawn += [(parent, (token,)) for token in self._most_likely(tokens, count, avoid or {})]
            else:
                drawn += [(parent, self._sampled(tokens, max_new_tokens, avoid or {})) for _ in range(count)]
        self._drawn = [(*self._live[parent], *new) for parent, new in drawn]
        return candidates_of(self.table, self._live, drawn)

    def keep(self, chosen: Sequence[int]) -> None:
        """Make candidates of the last draw the live prefixes."""
        self._live = kept(self.table, self._drawn, chosen)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the tokens as numbers with spaces between."""
        return text_of(tokens)

    def _weights(self, tokens: Tokens, avoid: Mapping[int, float]) -> list[float]:
        following = self.table.following(tokens)
        return [probability * math.exp(-avoid.get(token, 0.0)) for token, probability in enumerate(following)]

    def _most_likely(self, tokens: Tokens, count: int, avoid: Mapping[int, float]) -> list[int]:
        weights = self._weights(tokens, avoid)
        possible = [token for token, weight in enumerate(weights) if weight > 0.0]
        return sorted(possible, key=lambda token: -weights[token])[:count]

    def _sampled(self, tokens: Tokens, room: int, avoid: Mapping[int, float]) -> Tokens:
        new: Tokens = ()
        while len(new) < room and self.table.end not in new:
            weights = self._weights((*tokens, *new), avoid)
            new = (*new, self._random.choices(range(len(weights)), weights)[0])
        return new


class TokenCost:
    """A cost model that is a function of an answer's tokens, read from the text that the proposers here write."""

    blocks: tuple[int, ...] = ()

    def __init__(self, cost_of: Callable[[Tokens], float]) -> None:
        self.cost_of = cost_of

    def cost(self, inputs: CostInputs) -> Tensor:
        """Return the cost of each answer, float32 `[rows]`."""
        answers = [tuple(int(token) for token in answer.split()) for answer in inputs.answers]
        return torch.tensor([self.cost_of(answer) for answer in answers], dtype=torch.float32)


def require_counts(counts: Sequence[int], live: int, max_new_tokens: int) -> None:
    """Fail unless a search asks for at least one continuation of each live prefix, of at least one token."""
    assert len(counts) == live, f"{len(counts)} counts for {live} live prefixes"
    assert min(counts) >= 1, f"a live prefix is to be continued {min(counts)} times"
    assert max_new_tokens >= 1, f"a block of {max_new_tokens} tokens"


def candidates_of(table: TokenTable, live: Sequence[Tokens], drawn: Sequence[tuple[int, Tokens]]) -> Candidates:
    """Return continuations as candidates, one forward token for each new token.

    Args:
        table: what follows what.
        live: the live prefixes.
        drawn: the index of a live prefix, and new tokens behind it.
    """
    return Candidates(
        parents=tuple(parent for parent, _ in drawn),
        tokens=tuple(new for _, new in drawn),
        ended=tuple(new[-1] == table.end for _, new in drawn),
        log_probs=tuple(table.log_prob(live[parent], new) for parent, new in drawn),
        means=None,
        newest=None,
        read=None,
        forward_tokens=sum(len(new) for _, new in drawn),
    )


def kept(table: TokenTable, drawn: Sequence[Tokens], chosen: Sequence[int]) -> list[Tokens]:
    """Return the chosen answers of the last draw; fail where one of them has ended or none is chosen."""
    answers = [drawn[index] for index in chosen]
    assert answers, "no candidate is to be kept"
    assert all(answer[-1] != table.end for answer in answers), "a candidate that has ended is to be continued"
    return answers


def text_of(tokens: Sequence[int]) -> str:
    """Return tokens as numbers with spaces between."""
    return " ".join(str(token) for token in tokens)
