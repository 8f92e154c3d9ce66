"""Searches whose cost model reads texts: they begin, choose and end as with one that reads states."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.guarded_models import CONTENTS, answers, fresh_model, prompts
from tests.judged_models import classifier_registry, cost_of, embedding_registry, guardian_registry, judged
from tests.searched_models import sampled, search_policy, text_of, with_judge
from tests.text_judges import WIDTH

from steerguard.critics.callable_cost import CallableCost
from steerguard.critics.embedding_head import EmbeddingHeadCost
from steerguard.testing.tokenizers import BOS_ID, EOS_ID

ROWS = 5
TOKENS = 12
BLOCK = 3
SEARCHES = {
    "inference_guard": f"method: inference_guard, candidates: 6, block_tokens: {BLOCK}, keep: 2, retries: 2",
    "best_of_n": "method: best_of_n, candidates: 8, rule: augmented",
    "controlled_decoding": f"method: controlled_decoding, candidates: 6, block_tokens: {BLOCK}",
}
FREE = 1e5


@functools.cache
def _setting():
    """The model, a registry with a classifier, the classifier in memory, and plain answers with what they cost."""
    model = fresh_model()
    registry, judge = classifier_registry(model)
    batch = prompts(ROWS)
    plain = answers(sampled(model, batch), batch["input_ids"].shape[1])
    costs = [cost_of(judge, asked, text_of(answer)) for asked, answer in zip(CONTENTS, plain, strict=False)]
    return model, registry, judge, batch, plain, costs


def _middle(costs):
    found = sorted(costs)
    assert found[2] - found[1] > 1e-4
    return (found[1] + found[2]) / 2


@pytest.mark.parametrize("start", ["lazy", "always"])
@pytest.mark.parametrize("method", SEARCHES)
def test_what_is_returned_is_within_the_budget_by_the_same_classifier_in_memory(method, start):
    model, registry, judge, batch, plain, costs = _setting()
    budget = _middle(costs)
    with judged(model, search_policy(SEARCHES[method], start=start, cost_budget=budget), registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
    returned = answers(tokens, batch["input_ids"].shape[1])
    outcomes = [report.search.outcome for report in found]
    assert "found" in outcomes
    for row, report in enumerate(found):
        if report.applied == "refuse":
            assert report.search.cost is None
            continue
        cost = cost_of(judge, CONTENTS[row], text_of(returned[row]))
        assert cost < budget
        assert report.search.cost == pytest.approx(cost, abs=1e-4)
        assert report.search.forward_tokens > 0 or report.search.outcome == "kept"
    if start == "lazy":
        kept = [row for row, outcome in enumerate(outcomes) if outcome == "kept"]
        assert kept == [row for row, cost in enumerate(costs) if cost < budget]
        assert all(returned[row] == plain[row] for row in kept)
        assert [report.search.plain_cost for report in found] == pytest.approx(costs, abs=1e-4)


def _last_safe(judge, asked, answer, budget):
    """From scratch: the tokens at the last block end up to which the answer was within the budget without a gap."""
    safe = 0
    for tokens in range(BLOCK, len(answer), BLOCK):
        if cost_of(judge, asked, text_of(answer[:tokens])) >= budget:
            break
        safe = tokens
    return safe


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_lazy_search_begins_behind_the_last_block_that_was_within_the_budget(share):
    model, registry, judge, batch, plain, costs = _setting()
    budget = min(costs) + share * (max(costs) - min(costs))
    document = search_policy(SEARCHES["inference_guard"], cost_budget=budget)
    with judged(model, document, registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
    returned = answers(tokens, batch["input_ids"].shape[1])
    searched = [row for row, cost in enumerate(costs) if cost >= budget]
    assert searched
    for row in searched:
        safe = _last_safe(judge, CONTENTS[row], plain[row], budget)
        assert found[row].search.kept_tokens == safe
        if found[row].applied != "refuse":
            assert returned[row][:safe] == plain[row][:safe]


def test_some_of_these_searches_begin_within_the_answer():
    *_, judge, _, plain, costs = _setting()
    budgets = [min(costs) + share * (max(costs) - min(costs)) for share in (0.2, 0.5, 0.8)]
    begins = {
        _last_safe(judge, CONTENTS[row], plain[row], budget)
        for budget in budgets
        for row in range(ROWS)
        if costs[row] >= budget
    }
    assert 0 in begins
    assert begins - {0}


def test_a_free_search_from_the_first_token_takes_the_best_by_the_classifier():
    model, registry, judge, *_ = _setting()
    batch = prompts(1)
    several = answers(sampled(model, batch, num_return_sequences=8), batch["input_ids"].shape[1])
    costs = [cost_of(judge, CONTENTS[0], text_of(answer)) for answer in several]
    document = search_policy("method: best_of_n, candidates: 8, rule: plain", start="always", cost_budget=FREE)
    with judged(model, document, registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
    best = min(range(8), key=costs.__getitem__)
    assert sorted(costs)[1] - min(costs) > 1e-4
    assert answers(tokens, batch["input_ids"].shape[1])[0] == several[best]
    assert found[0].search.cost == pytest.approx(costs[best], abs=1e-4)


def test_a_guardian_is_a_cost_model_of_searches_too():
    model = fresh_model()
    registry, judge = guardian_registry(model)
    batch = prompts(2)
    document = search_policy(SEARCHES["inference_guard"], start="always", cost_budget=FREE)
    with judged(model, document, registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
    returned = answers(tokens, batch["input_ids"].shape[1])
    expected = [cost_of(judge, CONTENTS[row], text_of(returned[row])) for row in range(2)]
    assert [report.search.cost for report in found] == pytest.approx(expected, abs=1e-4)


def test_an_embedding_with_a_head_is_a_cost_model_of_searches_too():
    model = fresh_model()
    head = {"weight": torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)), "bias": torch.tensor([0.5])}
    with judged(
        model, search_policy(SEARCHES["best_of_n"], start="always", cost_budget=FREE), embedding_registry(model, head)
    ) as (wrapped, found):
        cost = wrapped.guard.engine.program.searches[0].cost.inner
        assert isinstance(cost, EmbeddingHeadCost)
        tokens = sampled(wrapped, prompts(1))
    text = text_of(answers(tokens, prompts(1)["input_ids"].shape[1])[0])
    assert found[0].search.cost == pytest.approx(cost_of(cost, CONTENTS[0], text), abs=1e-4)


def test_the_judge_lies_where_the_model_lies():
    model, registry, *_ = _setting()
    with judged(model, search_policy(SEARCHES["best_of_n"]), registry) as (wrapped, _):
        cost = wrapped.guard.engine.program.searches[0].cost.inner
        assert {parameter.device for parameter in cost.model.parameters()} == {wrapped.device}


def test_candidates_are_judged_with_the_last_user_message():
    model, registry, *_ = _setting()
    seen = set()

    def judge(asked, answered):
        seen.update(asked)
        return [float(len(answer)) for answer in answered]

    document = search_policy(SEARCHES["inference_guard"], start="lazy", cost_budget=-1.0)
    with judged(model, document, registry) as (wrapped, found):
        with_judge(wrapped, CallableCost(name="length", unit="characters", threshold=0.0, judge=judge))
        sampled(wrapped, prompts(3))
    assert seen == set(CONTENTS[:3])
    assert {report.cause for report in found} == {"no_candidate"}


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_a_judge_that_fails_between_blocks_refuses_the_row_and_leaves_the_others(start):
    model, registry, _, batch, plain, _ = _setting()

    def judge(asked, answered):
        if CONTENTS[1] in asked:
            raise RuntimeError("not this one")
        return [0.0] * len(answered)

    document = search_policy(SEARCHES["inference_guard"], start=start, cost_budget=1.0)
    with judged(model, document, registry) as (wrapped, found):
        with_judge(wrapped, CallableCost(name="fails", unit="none", threshold=1.0, judge=judge))
        tokens = sampled(wrapped, batch)
    assert [report.cause == "critic_failed" for report in found] == [row == 1 for row in range(ROWS)]
    assert found[1].applied == "refuse"
    if start == "lazy":
        returned = answers(tokens, batch["input_ids"].shape[1])
        assert [row for row in range(ROWS) if returned[row] == plain[row]] == [0, 2, 3, 4]


@pytest.mark.parametrize("only", [[BOS_ID], [EOS_ID]], ids=["control tokens", "the end of the turn"])
def test_a_plain_answer_is_kept_unjudged_only_where_it_has_no_token_but_ends_of_the_turn(only):
    model, registry, *_ = _setting()
    asked = []

    def judge(_asked, answered):
        asked.extend(answered)
        return [0.0] * len(answered)

    suppressed = [token for token in range(model.config.vocab_size) if token not in only]
    with judged(model, search_policy(SEARCHES["best_of_n"], cost_budget=1.0), registry) as (wrapped, found):
        with_judge(wrapped, CallableCost(name="free", unit="none", threshold=1.0, judge=judge))
        sampled(wrapped, prompts(1), suppress_tokens=suppressed, max_new_tokens=4)
    assert text_of(only) == ""
    assert not asked
    report = found[0]
    refused = ("refuse", "non_finite", "non_finite")
    assert (report.applied, report.cause, report.search.outcome) == (
        refused if only == [BOS_ID] else ("guide", "rule", "kept")
    )
    assert report.search.plain_cost is None
