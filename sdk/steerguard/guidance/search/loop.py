"""The search over candidate blocks: draw, judge, keep the best, go on.

    live = [what the answer holds already], z = d
    for every block, until all K that were kept have ended:
        up to 1 + M times:
            draw N continuations of the live prefixes, on a retry away from tokens of candidates that failed
            cost them, roll z forward, ask the critic
            stop as soon as one is safe
        keep the K best of them and of those that finished before; the unfinished of these K are live now
    return the best finished one

Source: InferenceGuard, arXiv 2502.01208, section 4. With other parts it is best-of-N (one block), blockwise controlled
decoding (no safety state) or a token-by-token search (blocks of one token). Unlike the paper's, this search fails
closed: under `final_check: cost_model` an answer that is not within the cost budget is never returned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from steerguard.critics.cost import CostInputs
from steerguard.guidance.search.draws import Draws
from steerguard.guidance.search.safety_state import next_state
from steerguard.guidance.search.selection import Branch, is_broken, is_safe, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steerguard.guidance.search.draws import Stop
    from steerguard.guidance.search.ledger import Ledger
    from steerguard.guidance.search.proposer import Candidates, Proposer
    from steerguard.guidance.search.search_guidance import SearchGuidance

Outcome = Literal["found", "no_candidate", "non_finite", "forward_tokens", "latency", "memory"]
"""Why a search ended.

`found`: all that were kept have ended.
`no_candidate`: no candidate of a block may be kept: each has ended over the cost budget, or is broken.
`non_finite`: each candidate of a block is broken: a cost, or another number that judges it, is not finite.
`forward_tokens`, `latency`: the budget does not let it go on.
`memory`: there is no memory for one candidate of each live prefix.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStart:
    """What the answer holds already when the search begins; with `lazy`, the plain answer up to its last safe block."""

    z: float
    """The safety state there; d at the beginning."""
    tokens: tuple[int, ...] = ()
    blocks: int = 0
    """How far the clock of z has run."""
    cost: float = 0.0
    """What these tokens cost; nothing said costs 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search ended with."""

    tokens: tuple[int, ...] | None
    """The whole answer, those of the start included: the best finished one that the search had. None: it had none.
    Where the budget ended the search, there can be one, and the search would have gone on to look for better ones."""
    cost: float | None
    z: float | None
    """The safety state at the end of the answer."""
    ended: bool
    """Whether the answer ended by itself: False where it was cut at the limit, or where there is none."""
    outcome: Outcome
    draws: int
    """How often candidates were drawn, retries included."""
    retries: int
    candidates: int
    """N at the end: less than it was where there was no memory for so many, or where the budget allows fewer."""
    halvings: int
    """How often N was halved because there was no memory for so many."""
    blocks: int
    """How far the clock of z has run, that of the start included."""
    forward_tokens: int
    """What this search spent."""
    candidates_drawn: int
    """How many candidates were drawn in all."""


def search(proposer: Proposer, guidance: SearchGuidance, ledger: Ledger, *, limit: int, start: SearchStart) -> Found:
    """Search for an answer.

    Args:
        proposer: its one live prefix holds the tokens of the start.
        guidance: what to search for, and who says what an answer costs. Without a critic, the cost so far stands for
            the cost at the end.
        ledger: the budget; several searches may share one.
        limit: the most tokens of the whole answer, those of the start included; more than the start has.
        start: what the answer holds already.

    Whatever a cost model, a critic or the proposer raises is passed on; only the lack of memory for so many candidates
    is not.
    """
    parts = guidance.parts
    draws = Draws(
        proposer=proposer,
        ledger=ledger,
        draw=parts.draw,
        candidates=min(parts.candidates, ledger.max_candidates or parts.candidates),
    )
    live = [Branch(tokens=start.tokens, ended=False, cost=start.cost, z=start.z, log_prob=0.0, drawn=0)]
    finished: list[Branch] = []
    outcome: Outcome = "no_candidate"
    blocks = start.blocks
    block_tokens = parts.block_tokens or limit
    for begin in range(len(start.tokens), limit, block_tokens):
        room = min(block_tokens, limit - begin)
        block = _draw_block(draws, guidance, live, finished, room=room, last=begin + room == limit)
        if isinstance(block, str):
            outcome = block
            break
        blocks += 1
        pool, keep = finished + block, min(parts.keep, draws.candidates)
        chosen = select(pool, guidance, keep)
        if not chosen:
            if block and all(is_broken(branch, guidance) for branch in block):
                outcome = "non_finite"
            break
        rows = [index - len(finished) for index in chosen if not pool[index].ended]
        live = [pool[index] for index in chosen if not pool[index].ended]
        # A finished answer that others have beaten is remembered: it needs no cache, and they may still end worse.
        ended = [branch for branch in pool if branch.ended]
        finished = [ended[index] for index in select(ended, guidance, keep)]
        if not live:
            outcome = "found"
            break
        proposer.keep(rows)
    # Only possible branches are selected, and one that has ended is possible only where the final check lets it pass.
    best = next((finished[index] for index in select(finished, guidance, 1)), None)
    return Found(
        tokens=None if best is None else best.tokens,
        cost=None if best is None else best.cost,
        z=None if best is None else best.z,
        ended=best is not None and len(best.tokens) < limit,
        outcome=outcome,
        draws=draws.draws,
        retries=draws.retries,
        candidates=draws.candidates,
        halvings=draws.halvings,
        blocks=blocks,
        forward_tokens=draws.forward_tokens,
        candidates_drawn=draws.candidates_drawn,
    )


def _draw_block(
    draws: Draws, guidance: SearchGuidance, live: Sequence[Branch], finished: list[Branch], *, room: int, last: bool
) -> list[Branch] | Stop:
    """Draw candidates for one block until one is safe, at most 1 + M times; return those of the last draw.

    Where a draw is discarded, those of its candidates that have ended join `finished`: the proposer needs to keep
    nothing for them.
    """
    parts = guidance.parts
    avoid: dict[int, float] = {}
    for attempt in range(parts.retries + 1):
        drawn = draws.next(len(live), room, avoid)
        if isinstance(drawn, str):
            return drawn
        draws.retries += attempt > 0
        branches = _branches(draws.proposer, guidance, live, drawn, last=last)
        if attempt == parts.retries or any(is_safe(branch, guidance) for branch in (*finished, *branches)):
            return branches
        finished += [branch for branch in branches if branch.ended]
        avoid |= {token: parts.avoid_penalty for tokens in drawn.tokens for token in tokens}
    return []


def _branches(
    proposer: Proposer, guidance: SearchGuidance, live: Sequence[Branch], drawn: Candidates, *, last: bool
) -> list[Branch]:
    """Return the candidates, costed, with their safety state and what the critic says of those that have not ended."""
    parents = [live[parent] for parent in drawn.parents]
    answers = [(*parent.tokens, *new) for parent, new in zip(parents, drawn.tokens, strict=True)]
    reads_texts = not guidance.cost.blocks
    inputs = CostInputs(
        means=drawn.means,
        newest=drawn.newest,
        read=drawn.read,
        prompts=[proposer.prompt] * len(answers) if reads_texts else (),
        answers=[proposer.text(tokens) for tokens in answers] if reads_texts else (),
    )
    costs = guidance.cost.cost(inputs)
    branches = [
        Branch(
            tokens=tokens,
            ended=ended or last,
            cost=cost,
            z=next_state(parent.z, cost - parent.cost, discount=guidance.parts.discount),
            log_prob=parent.log_prob + log_prob,
            drawn=parent.drawn + len(new),
        )
        for parent, tokens, new, ended, log_prob, cost in zip(
            parents, answers, drawn.tokens, drawn.ended, drawn.log_probs, costs.tolist(), strict=True
        )
    ]
    if not guidance.parts.uses_critic or guidance.critic is None or all(branch.ended for branch in branches):
        return branches
    states = torch.tensor([branch.z for branch in branches], dtype=torch.float32, device=costs.device)
    ends_safe, cost_to_go = guidance.critic.values(inputs, states)
    return [
        branch if branch.ended else replace(branch, ends_safe=safe, cost_to_go=to_go)
        for branch, safe, to_go in zip(branches, ends_safe.tolist(), cost_to_go.tolist(), strict=True)
    ]
