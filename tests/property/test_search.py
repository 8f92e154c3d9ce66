"""The search against brute force, against best-of-N, against its budget, and against parts that misbehave."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.searches import FULL, FakeCritic, guidance_of, random_costs, random_table, run_search

from steerguard.guidance.search.ledger import Ledger
from steerguard.guidance.search.loop import SearchStart
from steerguard.guidance.search.safety_state import next_state, state_after
from steerguard.guidance.search.selection import Branch, value
from steerguard.testing import ExhaustiveProposer, SampledProposer

SEEDS = st.integers(0, 10**9)
BLOCK_COSTS = st.lists(st.floats(-8, 8, width=32), max_size=12)


@given(budget=st.floats(-16, 16, width=32), costs=BLOCK_COSTS, discount=st.floats(0.125, 1.0, exclude_min=True))
def test_the_safety_state_equals_its_closed_form(budget, costs, discount):
    z = budget
    for cost in costs:
        z = next_state(z, cost, discount=discount)
    largest = (abs(budget) + sum(map(abs, costs))) / discount ** len(costs)
    assert math.isclose(z, state_after(budget, costs, discount=discount), rel_tol=1e-9, abs_tol=1e-9 * largest)


@given(budget=st.floats(-16, 16, width=32), costs=BLOCK_COSTS)
def test_without_discount_the_safety_state_is_what_the_budget_leaves_over(budget, costs):
    so_far, z = 0.0, budget
    for cost in costs:
        z = next_state(z, cost - so_far, discount=1.0)
        so_far = cost
    assert math.isclose(z, budget - so_far, abs_tol=1e-9)


def path_is_safe(answer, cost_of, *, budget, block, discount):
    """Whether z, in closed form, is positive behind every block of an answer."""
    ends = [*range(block, len(answer), block), len(answer)]
    so_far = [0.0, *(cost_of(answer[:end]) for end in ends)]
    block_costs = [after - before for before, after in pairwise(so_far)]
    return all(state_after(budget, block_costs[:k], discount=discount) > 0.0 for k in range(1, len(block_costs) + 1))


def as_branch(answer, table, cost_of):
    log_prob = table.log_prob((), answer)
    cost = cost_of(answer)
    return Branch(tokens=answer, ended=True, cost=cost, z=1.0, log_prob=log_prob, drawn=len(answer))


@settings(max_examples=600)
@given(
    seed=SEEDS,
    limit=st.integers(1, 5),
    block=st.integers(1, 5),
    budget=st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0, 2.0]),
    discount=st.sampled_from([1.0, 0.5]),
    kind=st.sampled_from(["cost", "likelihood", "lagrangian"]),
    tracks_safety=st.booleans(),
    check=st.sampled_from(["cost_model", "none"]),
    retries=st.integers(0, 1),
)
def test_the_search_at_full_width_finds_the_optimum_of_the_augmented_problem(
    seed, limit, block, budget, discount, kind, tracks_safety, check, retries
):
    table, cost_of = random_table(seed), random_costs(seed)
    guidance = guidance_of(
        cost_of,
        budget=budget,
        candidates=FULL,
        keep=FULL,
        block_tokens=block,
        discount=discount,
        value=kind,
        weight=0.5,
        tracks_safety=tracks_safety,
        final_check=check,
        retries=retries,
    )
    found = run_search(ExhaustiveProposer(table), guidance, limit=limit)

    # Every answer, and what it is worth; an answer whose z was ever used up, or that fails the final check, costs n.
    answers = list(table.continuations((), limit))
    allowed = [
        answer
        for answer in answers
        if (check == "none" or cost_of(answer) < budget)
        and (not tracks_safety or path_is_safe(answer, cost_of, budget=budget, block=block, discount=discount))
    ]
    worth = {answer: value(as_branch(answer, table, cost_of), guidance) for answer in answers}
    if allowed:
        assert found.tokens in allowed
        assert math.isclose(worth[found.tokens], min(worth[answer] for answer in allowed), abs_tol=1e-12)
        assert found.outcome == "found"
        assert found.retries == 0
    elif found.tokens is None:
        assert found.outcome == "no_candidate"
    else:
        assert found.tokens in answers
        assert check == "none" or found.cost < budget


@settings(max_examples=300)
@given(
    seed=SEEDS,
    limit=st.integers(2, 5),
    block=st.integers(1, 3),
    budget=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    discount=st.sampled_from([1.0, 0.5]),
)
def test_with_a_perfect_critic_one_kept_candidate_finds_the_same_optimum(seed, limit, block, budget, discount):
    table, cost_of = random_table(seed), random_costs(seed)

    def cheapest(prefix):
        if table.end in prefix:
            return None
        answers = [(*prefix, *rest) for rest in table.continuations(prefix, limit - len(prefix))]
        costs = [
            cost_of(answer)
            for answer in answers
            if cost_of(answer) < budget and path_is_safe(answer, cost_of, budget=budget, block=block, discount=discount)
        ]
        return min(costs, default=None)

    def ends_safe(text, _):
        return float(cheapest(tuple(map(int, text.split()))) is not None)

    def cost_to_go(text, _):
        prefix = tuple(map(int, text.split()))
        best = cheapest(prefix)
        return 0.0 if best is None else best - cost_of(prefix)

    guidance = guidance_of(
        cost_of,
        budget=budget,
        critic=FakeCritic(ends_safe, cost_to_go),
        candidates=FULL,
        keep=1,
        block_tokens=block,
        discount=discount,
        retries=0,
    )
    best = cheapest(())
    if best is not None:
        assert run_search(ExhaustiveProposer(table), guidance, limit=limit).cost == best


@given(seed=SEEDS, limit=st.integers(1, 6), candidates=st.integers(1, 8), budget=st.sampled_from([0.0, 0.5, 9.0]))
def test_a_block_as_long_as_the_answer_is_best_of_n(seed, limit, candidates, budget):
    table, cost_of = random_table(seed), random_costs(seed)
    drawn = SampledProposer(table, seed).propose([candidates], limit, draw="sample").tokens
    within = [answer for answer in drawn if cost_of(answer) < budget]
    best = min(within, key=cost_of, default=None)
    for block in (None, limit, limit + 3):
        guidance = guidance_of(cost_of, budget=budget, candidates=candidates, keep=1, block_tokens=block, retries=0)
        assert run_search(SampledProposer(table, seed), guidance, limit=limit).tokens == best


@given(seed=SEEDS, limit=st.integers(1, 9), block=st.integers(1, 9))
def test_one_candidate_is_plain_sampling(seed, limit, block):
    table = random_table(seed)
    plain = SampledProposer(table, seed).propose([1], limit, draw="sample").tokens[0]
    guidance = guidance_of(lambda _: 0.0, candidates=1, keep=1, block_tokens=block)
    assert run_search(SampledProposer(table, seed), guidance, limit=limit).tokens == plain


class Liar:
    """A proposer that ends, continues, repeats and weighs as it likes; it keeps no more of the contract than types."""

    prompt = ""

    def __init__(self, table, seed):
        self.honest = SampledProposer(table, seed)
        self.random = random.Random(seed)
        self.live = [()]
        self.drawn = []

    def propose(self, counts, max_new_tokens, *, draw, avoid=None):
        rows = self.random.randrange(sum(counts) + 2)
        parents = [self.random.randrange(len(self.live)) for _ in range(rows)]
        news = [tuple(self.random.choices(range(3), k=self.random.randrange(max_new_tokens + 3))) for _ in parents]
        self.drawn = [(*self.live[parent], *new) for parent, new in zip(parents, news, strict=True)]
        candidates = self.honest.propose([1], 1, draw=draw, avoid=avoid)
        changes = {
            "parents": tuple(parents),
            "tokens": tuple(news),
            "ended": tuple(self.random.random() < 0.4 for _ in news),
            "log_probs": tuple(self.random.choice([-1.0, math.nan, -math.inf, math.inf, 3.0]) for _ in news),
        }
        return type(candidates)(**changes, means=None, newest=None, read=None, forward_tokens=self.random.randrange(50))

    def keep(self, chosen):
        self.live = [self.drawn[index] for index in chosen]

    def text(self, tokens):
        return self.honest.text(tokens)


ODD = st.sampled_from([math.nan, math.inf, -math.inf, -1e38, -1.0, -0.0, 0.0, 0.5, 1.0, 1.5, 1e38])


@settings(max_examples=600)
@given(
    seed=SEEDS,
    lies=st.booleans(),
    costs=st.lists(ODD, min_size=1, max_size=7),
    critic=st.lists(ODD, max_size=5),
    budget=st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
    discount=st.floats(0.01, 1.0, exclude_min=True),
    kind=st.sampled_from(["cost", "likelihood", "lagrangian"]),
    tracks_safety=st.booleans(),
    numbers=st.tuples(*[st.integers(1, 6)] * 4, st.integers(0, 2)),
)
def test_nothing_that_is_not_within_the_budget_is_returned_whatever_the_parts_do(
    seed, lies, costs, critic, budget, discount, kind, tracks_safety, numbers
):
    candidates, keep, block, limit, retries = numbers

    def cost_of(tokens):
        return random.Random(f"{seed} {tokens}").choice(costs)

    def says(answer, z):
        return random.Random(f"{seed} {answer} {z}").choice(critic)

    guidance = guidance_of(
        cost_of,
        budget=budget,
        critic=FakeCritic(says, says) if critic else None,
        candidates=candidates,
        keep=keep,
        block_tokens=block,
        retries=retries,
        discount=discount,
        value=kind,
        weight=2.0,
        tracks_safety=tracks_safety,
    )
    table = random_table(seed)
    first, second = (
        run_search(Liar(table, seed) if lies else SampledProposer(table, seed), guidance, limit=limit) for _ in "ab"
    )
    assert first == second
    if first.tokens is None:
        assert first.outcome in {"no_candidate", "non_finite"}
    else:
        cost = torch.tensor(cost_of(first.tokens), dtype=torch.float32).item()
        assert math.isfinite(cost)
        assert cost < budget
        assert first.cost == cost


def test_two_hundred_random_budgets_are_never_exceeded():
    draw = random.Random(0)
    outcomes = set()
    for seed in range(200):
        limit, block = draw.randint(1, 24), draw.randint(1, 8)
        candidates = draw.randint(1, 8)
        tokens = draw.randint(0, 12 * limit)
        ledger = Ledger(max_forward_tokens=tokens, max_candidates=draw.choice([None, 1, 4]))
        table, cost_of = random_table(seed), random_costs(seed)
        guidance = guidance_of(
            cost_of, candidates=candidates, keep=draw.randint(1, candidates), block_tokens=block, retries=2
        )
        spent = 0
        for row in range(2):
            found = run_search(SampledProposer(table, row), guidance, limit=limit, ledger=ledger)
            spent += found.forward_tokens
            outcomes.add(found.outcome)
            assert found.tokens is None or found.cost < guidance.cost_budget
        assert spent == ledger.forward_tokens <= tokens
    assert outcomes >= {"found", "forward_tokens"}


@given(seed=SEEDS, most_rows=st.integers(0, 16), candidates=st.integers(1, 16), keep=st.integers(1, 4))
def test_a_lack_of_memory_halves_the_candidates_and_nothing_else(seed, most_rows, candidates, keep):
    table = random_table(seed)
    guidance = guidance_of(lambda _: 0.0, candidates=candidates, keep=min(keep, candidates), retries=0)
    found = run_search(SampledProposer(table, seed, most_rows=most_rows), guidance, limit=5)
    halves = candidates
    while halves > max(most_rows, 1):
        halves //= 2
    assert found.candidates == halves
    assert (found.outcome == "memory") == (most_rows == 0)
    fewer = guidance_of(lambda _: 0.0, candidates=halves, keep=min(keep, halves), retries=0)
    if most_rows:
        assert found.tokens == run_search(SampledProposer(table, seed), fewer, limit=5).tokens


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_search_that_starts_behind_some_blocks_goes_on_as_if_it_had_kept_them(cut):
    for seed in range(60):
        table, cost_of = random_table(seed), random_costs(seed)
        guidance = guidance_of(cost_of, budget=2.0, candidates=FULL, keep=FULL, block_tokens=1, discount=0.5)
        prefix, z = (), guidance.cost_budget
        for _ in range(cut):
            following = table.following(prefix)
            open_ended = [token for token in range(2) if following[token] > 0.0]
            if not open_ended:
                break
            before = cost_of(prefix) if prefix else 0.0
            prefix = (*prefix, open_ended[0])
            z = next_state(z, cost_of(prefix) - before, discount=0.5)
        if len(prefix) < cut or z <= 0.0:
            continue
        proposer = ExhaustiveProposer(table)
        proposer._live = [prefix]
        start = SearchStart(tokens=prefix, z=z, blocks=cut, cost=cost_of(prefix))
        found = run_search(proposer, guidance, limit=4, start=start)
        allowed = [
            answer
            for answer in table.continuations((), 4)
            if answer[:cut] == prefix
            and cost_of(answer) < 2.0
            and len(answer) > cut
            and path_is_safe(answer, cost_of, budget=2.0, block=1, discount=0.5)
        ]
        if path_is_safe(prefix, cost_of, budget=2.0, block=1, discount=0.5) and allowed:
            assert found.cost == min(cost_of(answer) for answer in allowed)
            assert found.tokens in allowed
