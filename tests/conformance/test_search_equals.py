"""A search without a choice is plain sampling; a search of one whole block is the cheapest of N plain answers."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import Capture, fresh_model, prompts, registry_for, shared_model
from tests.search_checks import answered, cost_from_scratch, judge_of, unpadded
from tests.searched_models import sampled, search_policy, searched
from transformers import LogitsProcessorList

from steerguard.testing.tokenizers import EOS_ID

ONE = "method: inference_guard, candidates: 1, block_tokens: {block}, keep: 1, retries: 0"
BEST = "method: best_of_n, candidates: {n}, rule: {rule}"
FREE = 1e5
SETTINGS = {
    "plain": {},
    "warm": {"temperature": 1.7},
    "cut": {"top_k": 5, "top_p": 0.9},
    "greedy": {"do_sample": False, "top_k": None},
    "processed": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
}


def _rows(batch, *rows):
    return {name: value[list(rows)] for name, value in batch.items()}


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("padded", [None, "left", "right"])
def test_one_candidate_is_the_librarys_own_sampling_token_for_token(block, settings, padded):
    model = shared_model()
    registry_for(model)
    batch = _rows(prompts(3, padded), 1) if padded else prompts(1)
    assert (batch["attention_mask"] == 0).any() == bool(padded)
    one = Capture()
    plain = sampled(model, batch, max_new_tokens=20, logits_processor=LogitsProcessorList([one]), **settings)
    other = Capture()
    with searched(model, search_policy(ONE.format(block=block), start="always", cost_budget=FREE)) as (wrapped, found):
        tokens = sampled(wrapped, batch, max_new_tokens=20, logits_processor=LogitsProcessorList([other]), **settings)
    assert torch.equal(tokens, plain)
    assert found[0].search.outcome == "found"
    with searched(model, search_policy(cost_budget=FREE)) as (wrapped, lazy):
        assert torch.equal(sampled(wrapped, batch, max_new_tokens=20, **settings), plain)
    assert found[0].search.cost == pytest.approx(lazy[0].search.plain_cost, abs=1e-5)
    # The loop asks once for filler, and then the search asks for the same scores as the library did.
    assert all(torch.equal(mine, its) for mine, its in zip(other.steps[1:], one.steps, strict=True))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "qwen3_next", "falcon_mamba", "olmoe"])
def test_one_candidate_is_sampling_on_other_classes(architecture):
    model = shared_model(architecture)
    registry_for(model)
    batch = _rows(prompts(3), 1)
    plain = sampled(model, batch)
    with searched(model, search_policy(ONE.format(block=4), start="always", cost_budget=FREE)) as (wrapped, _):
        assert torch.equal(sampled(wrapped, batch), plain)


def test_a_lazy_search_leaves_the_generator_where_the_plain_answer_left_it():
    model = shared_model()
    registry_for(model)
    sampled(model, prompts(2))
    plain = torch.rand(3)
    with searched(model, search_policy(cost_budget=FREE)) as (wrapped, _):
        sampled(wrapped, prompts(2))
        assert torch.equal(torch.rand(3), plain)


@pytest.mark.parametrize("row", range(3))
def test_plain_best_of_n_is_the_cheapest_of_n_returned_sequences(row):
    model = fresh_model()
    registry = registry_for(model, probe_blocks=(1, 3))
    batch = _rows(prompts(3), row)
    several = sampled(model, batch, num_return_sequences=6)
    document = search_policy(BEST.format(n=6, rule="plain"), start="always", cost_budget=FREE)
    with searched(model, document, registry=registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
        judge = judge_of(wrapped)
    prompt = unpadded(batch)[0]
    repeated = {name: value.repeat(6, 1) for name, value in batch.items()}
    drawn = answered(several, repeated, end=EOS_ID)
    costs = [cost_from_scratch(model, prompt, answer, judge) for answer in drawn]
    best = min(range(6), key=costs.__getitem__)
    assert answered(tokens, batch, end=EOS_ID)[0] == drawn[best]
    assert found[0].search.cost == pytest.approx(costs[best], abs=1e-4)
    assert found[0].search.candidates_drawn == 6
    assert sorted(costs)[1] - min(costs) > 1e-3


def test_the_lagrangian_weighs_likelihood_against_cost():
    model = fresh_model()
    registry = registry_for(model, probe_blocks=(1, 3))
    batch = prompts(1)
    several = sampled(model, batch, num_return_sequences=6)
    rule = BEST.format(n=6, rule="lagrangian") + ", weight: 0.05"
    document = search_policy(rule, start="always", cost_budget=FREE)
    with searched(model, document, registry=registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
        judge = judge_of(wrapped)
    prompt, repeated = unpadded(batch)[0], {name: value.repeat(6, 1) for name, value in batch.items()}
    drawn = answered(several, repeated, end=EOS_ID)
    scores = [
        0.05 * cost_from_scratch(model, prompt, answer, judge) - _mean_log_probability(model, prompt, answer)
        for answer in drawn
    ]
    best = min(range(6), key=scores.__getitem__)
    assert answered(tokens, batch, end=EOS_ID)[0] == drawn[best]
    assert found[0].search.cost == pytest.approx(cost_from_scratch(model, prompt, drawn[best], judge), abs=1e-4)


@pytest.mark.parametrize("budget", [-4.0, 0.0, 3.0])
def test_one_block_as_long_as_the_answer_is_augmented_best_of_n(budget):
    model = fresh_model()
    registry = registry_for(model, probe_blocks=(1, 3))
    batch = _rows(prompts(3), 2)
    whole = "method: inference_guard, candidates: 6, block_tokens: 12, keep: 1, retries: 0, value: likelihood"
    best = BEST.format(n=6, rule="augmented")
    outcomes = []
    for search in (whole, best):
        document = search_policy(search, start="always", cost_budget=budget)
        with searched(model, document, registry=registry) as (wrapped, found):
            tokens = sampled(wrapped, batch)
        outcomes.append((tokens.tolist(), found[0].search.outcome, found[0].search.cost, found[0].usage))
    assert outcomes[0] == outcomes[1]


@torch.no_grad()
def _mean_log_probability(model, prompt, answer):
    logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].float()
    found = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return float(found.gather(1, torch.tensor(answer)[:, None]).mean())
