"""Searches in every way of calling: batches, padding, several answers, threads, streams, caches over turns, limits."""

from __future__ import annotations

import statistics
import threading

import pytest
import torch
from tests.guarded_models import (
    TEMPLATE,
    Watch,
    answers,
    fresh_model,
    guarded,
    prompts,
    registry_for,
    scores_of,
    tokenizer,
)
from tests.search_checks import answered, cost_from_scratch, judge_of, unpadded
from tests.searched_models import plain_costs, sampled, search_policy, searched, text_of
from transformers import DynamicCache, StaticCache, StoppingCriteriaList, SynthIDTextWatermarkingConfig
from transformers.generation.streamers import BaseStreamer

from steerguard.errors import UnsupportedGenerationError, UnsupportedPlanError
from steerguard.policy.load import parse_policy
from steerguard.testing.tokenizers import EOS_ID

GREEDY = {"do_sample": False, "top_k": None}


def _row(batch, row, *, unpad=False):
    found = {name: value[row : row + 1] for name, value in batch.items()}
    if unpad:
        shown = found["attention_mask"][0].bool()
        found = {name: value[:, shown] for name, value in found.items()}
    return found


def _median(**named):
    return statistics.median(plain_costs(**named))


def test_greedy_rows_alone_cost_what_they_cost_in_a_batch():
    model = fresh_model()
    registry = registry_for(model, probe_blocks=(1, 3))
    batch, width = prompts(8), prompts(8)["input_ids"].shape[1]
    with searched(model, search_policy(cost_budget=1e5), registry=registry) as (wrapped, found):
        sampled(wrapped, batch, **GREEDY)
    budget = statistics.median([report.search.plain_cost for report in found])
    document = search_policy("method: inference_guard, candidates: 1, block_tokens: 3, keep: 1, retries: 0",
                             cost_budget=budget)  # fmt: skip
    with searched(model, document, registry=registry) as (wrapped, together):
        tokens = sampled(wrapped, batch, **GREEDY)
    with searched(model, document, registry=registry) as (wrapped, alone):
        for row in range(8):
            one = _row(batch, row, unpad=True)
            own = sampled(wrapped, one, **GREEDY)
            if together[row].applied == "guide":
                assert answers(own, one["input_ids"].shape[1])[0] == answers(tokens, width)[row]
    assert {report.search.outcome for report in together} >= {"kept", "no_candidate"}
    for one, other in zip(together, alone, strict=True):
        assert one.search.outcome == other.search.outcome
        assert one.search.plain_cost == pytest.approx(other.search.plain_cost, abs=1e-4)
        assert one.search.kept_tokens == other.search.kept_tokens


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_several_answers_to_one_prompt_are_searched_for_one_by_one(start):
    model = fresh_model()
    registry = registry_for(model, probe_blocks=(1, 3))
    batch = prompts(2)
    document = search_policy(start=start, cost_budget=0.0)
    with searched(model, document, registry=registry) as (wrapped, found):
        tokens = sampled(wrapped, batch, num_return_sequences=2)
        judge = judge_of(wrapped)
    assert tokens.shape[0] == len(found) == 4
    repeated = {name: value.repeat_interleave(2, dim=0) for name, value in batch.items()}
    if start == "always":
        assert tokens[0].tolist() != tokens[1].tolist()
    for prompt, answer, report in zip(unpadded(repeated), answered(tokens, repeated, end=EOS_ID), found, strict=True):
        if report.applied == "guide":
            cost = cost_from_scratch(model, prompt, answer, judge)
            assert report.search.cost == pytest.approx(cost, abs=1e-4)


def test_two_threads_do_what_they_do_one_after_the_other():
    model = fresh_model()
    budget = _median(rows=4)
    batches = [prompts(4), _row(prompts(4), 2)]
    document = search_policy("method: inference_guard, candidates: 1, block_tokens: 3, keep: 1, retries: 0",
                             cost_budget=budget, final_check="none")  # fmt: skip

    def outcome(wrapped, batch):
        with wrapped.guard.collect() as reports:
            tokens = sampled(wrapped, batch, **GREEDY)
        return tokens.tolist(), [(report.search.outcome, report.search.cost, report.usage) for report in reports]

    with searched(model, document) as (wrapped, _):
        expected = [outcome(wrapped, batch) for batch in batches]
        found = [[], []]

        def work(number):
            found[number] += [outcome(wrapped, batches[number]) for _ in range(4)]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [[expected[0]] * 4, [expected[1]] * 4]


def test_a_dictionary_output_carries_the_reports_and_no_states_of_what_was_not_returned():
    model = fresh_model()
    with searched(model, search_policy(cost_budget=_median(rows=4))) as (wrapped, found):
        output = sampled(wrapped, prompts(4), return_dict_in_generate=True)
        assert output.guidance == tuple(found)
        tokens = sampled(wrapped, prompts(4))
        assert torch.equal(output.sequences, tokens)
        assert output.past_key_values.get_seq_length() == 0
        for asked in ({"output_scores": True}, {"output_logits": True}, {"output_attentions": True}):
            with pytest.raises(UnsupportedGenerationError):
                sampled(wrapped, prompts(4), return_dict_in_generate=True, **asked)
        with pytest.raises(UnsupportedGenerationError, match="output_hidden_states"):
            sampled(wrapped, prompts(4), return_dict_in_generate=True, output_hidden_states=True)


class _Kept(BaseStreamer):
    def __init__(self):
        self.columns, self.ended = [], False

    def put(self, value):
        self.columns.append(value.reshape(-1).tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_a_stream_shows_what_is_returned_and_nothing_else(start):
    model = fresh_model()
    streamer = _Kept()
    with searched(model, search_policy(start=start, cost_budget=_median(rows=4))) as (wrapped, _):
        one = _row(prompts(4), 0)
        tokens = sampled(wrapped, one, streamer=streamer)
    assert streamer.ended
    assert [token for column in streamer.columns for token in column] == tokens[0].tolist()


def test_stop_strings_end_candidates_as_they_end_answers():
    model = fresh_model()
    registry = registry_for(model)
    plain = sampled(model, prompts(1), max_new_tokens=40)
    stop = text_of(plain[0, -20:-19])
    batch = prompts(1)
    with searched(model, search_policy(start="always", cost_budget=1e5), registry=registry) as (wrapped, found):
        tokens = sampled(wrapped, batch, max_new_tokens=40, stop_strings=[stop], tokenizer=tokenizer())
    (answer,) = answers(tokens, batch["input_ids"].shape[1])
    said = text_of(answer)
    assert stop in said or answer[-1] == EOS_ID or len(answer) == 40
    assert said.count(stop) <= 1
    assert found[0].search.outcome == "found"


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_an_answer_of_one_token_shows_nothing_to_judge_and_is_refused(start):
    model = fresh_model()
    registry_for(model)
    with searched(model, search_policy(start=start, cost_budget=1e5)) as (wrapped, found):
        sampled(wrapped, prompts(2), max_new_tokens=1, min_new_tokens=1)
    assert [(report.cause, report.search.outcome) for report in found] == [("non_finite", "non_finite")] * 2


DETECTED = """
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: mixed, version: 1.0.0, description: for tests, owner: tests}}
target: {{modalities: [text]}}
detectors:
  - {{id: d, type: linear_probe, artifact: harmful-intent@^1, read: generation_prompt_end}}
guidance:
  - {{id: search, method: inference_guard, candidates: 4, block_tokens: 3, keep: 2, retries: 1, critic: harm-cost@^1,
      start: {start}, cost_budget: {{value: 100000.0}}}}
rules:
  - {{id: no, when: {{detector: d, score: {{at_least: {{value: {high}}}}}}}, then: {{action: refuse}}}}
  - {{id: yes, when: {{detector: d, score: {{below: {{value: {low}}}}}}}, then: {{action: guide, use: [search]}}}}
default: {{action: allow}}
budget: {{max_extra_forward_tokens: 100000, max_candidates: 64, max_added_latency_ms: 600000}}
refusal: {{template: "I cannot help with that."}}
"""


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_refused_allowed_and_searched_rows_stand_side_by_side(start):
    model = fresh_model()
    registry_for(model)
    batch, width = prompts(6), prompts(6)["input_ids"].shape[1]
    scores = scores_of(model, batch)
    low, high = (statistics.mean(sorted(scores)[first : first + 2]) for first in (1, 3))
    plain = answers(sampled(model, batch, **GREEDY), width)
    document = parse_policy(DETECTED.format(start=start, low=low, high=high), file="mixed.yaml")
    with searched(model, document) as (wrapped, found):
        tokens = answers(sampled(wrapped, batch, **GREEDY), width)
    for score, report, own, other in zip(scores, found, plain, tokens, strict=True):
        expected = "refuse" if score >= high else "guide" if score < low else "allow"
        assert report.applied == expected
        assert (report.search is not None) == (expected == "guide")
        if expected == "refuse":
            assert TEMPLATE.startswith(text_of(other).strip())
        elif expected == "allow" or start == "lazy":
            assert own == other


def test_monitor_mode_searches_for_nothing_and_changes_nothing():
    model = fresh_model()
    registry_for(model)
    plain = sampled(model, prompts(3))
    for start in ("lazy", "always"):
        with searched(model, search_policy(start=start, cost_budget=-1e5), mode="monitor") as (wrapped, found):
            assert torch.equal(sampled(wrapped, prompts(3)), plain)
        assert [(report.intended, report.applied, report.search) for report in found] == [("guide", "allow", None)] * 3


@pytest.mark.parametrize("budget", [1e5, -1e5])
def test_a_cache_of_the_app_goes_on_or_starts_over_with_the_same_outcome(budget):
    model = fresh_model()
    registry_for(model)
    document = search_policy(cost_budget=budget, final_check="none")
    first = prompts(1)
    with searched(model, document) as (wrapped, found):
        cache = DynamicCache()
        tokens = sampled(wrapped, first, past_key_values=cache)
        second = {"input_ids": torch.cat([tokens, first["input_ids"]], dim=1)}
        second["attention_mask"] = torch.ones_like(second["input_ids"])
        with_cache = sampled(wrapped, second, past_key_values=cache)
        without = sampled(wrapped, second)
    assert torch.equal(with_cache, without)
    assert found[1].search.plain_cost == pytest.approx(found[2].search.plain_cost, abs=1e-4)
    assert found[1].usage.cached_tokens in ({tokens.shape[1] - 1} if budget > 0 else {0})


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_caches_that_do_not_fork_are_refused_by_name_before_any_token(start):
    model = fresh_model()
    registry_for(model)
    steps = []
    watch = StoppingCriteriaList([Watch(steps.append)])
    with searched(model, search_policy(start=start)) as (wrapped, found):
        static = StaticCache(config=model.config, max_cache_len=128)
        for named, asked in (
            ("StaticCache", {"cache_implementation": "static"}),
            ("StaticCache", {"past_key_values": static}),
            ("quantized", {"cache_implementation": "quantized"}),
            ("use_cache", {"use_cache": False}),
            ("beam", {"num_beams": 2, "do_sample": False, "top_k": None}),
        ):
            with pytest.raises(UnsupportedGenerationError, match=named):
                sampled(wrapped, prompts(2), stopping_criteria=watch, **asked)
        with pytest.raises(UnsupportedGenerationError, match="PrefixConstrained"):
            sampled(wrapped, prompts(2), stopping_criteria=watch, prefix_allowed_tokens_fn=lambda *_: [5, 6, 7])
        watermark = SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3)
        with pytest.raises(UnsupportedGenerationError, match="SynthIDText"):
            sampled(wrapped, prompts(2), stopping_criteria=watch, watermarking_config=watermark)
        assert not steps
        assert not found
        sampled(wrapped, prompts(2))


def test_scoring_under_a_policy_that_searches_reads_and_changes_nothing():
    model = fresh_model()
    registry_for(model)
    batch = prompts(2)
    with torch.no_grad():
        plain = model(**batch).logits
    with (
        searched(model, search_policy(start="always", cost_budget=-1e5)) as (wrapped, _),
        wrapped.guard.forward() as scoring,
        torch.no_grad(),
    ):
        logits = wrapped(**batch).logits
    assert torch.equal(logits, plain)
    assert [(report.intended, report.search) for report in scoring.decisions[0]] == [("guide", None)] * 2


def test_the_compiled_executor_does_not_search():
    model = fresh_model()
    with (
        pytest.raises(UnsupportedPlanError, match="compiled executor"),
        guarded(model, search_policy(), executor="compiled"),
    ):
        pass
