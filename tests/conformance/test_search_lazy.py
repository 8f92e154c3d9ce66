"""A lazy search: what is within the budget is not touched by a bit; what is not goes on from its last safe block."""

from __future__ import annotations

import statistics

import pytest
import torch
from tests.guarded_models import Capture, answers, conversation, fresh_model, prompts, registry_for, tokenizer
from tests.search_checks import Ramp, Seen, judge_of, passed_through, unpadded
from tests.searched_models import plain_costs, sampled, search_policy, searched, with_judge
from transformers import LogitsProcessorList

from steerguard.models.chat import render
from steerguard.testing.tokenizers import EOS_ID


def _captured(model, batch, **settings):
    seen = Capture()
    tokens = sampled(model, batch, logits_processor=LogitsProcessorList([seen]), **settings)
    return tokens, seen.steps


def test_kept_rows_of_a_mixed_batch_are_plain_to_the_bit():
    model = fresh_model()
    batch, width = prompts(6), prompts(6)["input_ids"].shape[1]
    costs = plain_costs(rows=6)
    plain, steps = _captured(model, batch)
    with searched(model, search_policy(cost_budget=statistics.median(costs))) as (wrapped, found):
        tokens, guided = _captured(wrapped, batch)
    kept = [row for row, report in enumerate(found) if report.search.outcome == "kept"]
    assert 0 < len(kept) < 6
    assert kept == [row for row, cost in enumerate(costs) if cost < statistics.median(costs)]
    own, other = answers(plain, width), answers(tokens, width)
    assert all(own[row] == other[row] for row in kept)
    # The loop itself is the same for every row; candidates come behind it.
    assert all(
        torch.equal(one.view(torch.int32), two.view(torch.int32)) for one, two in zip(steps, guided, strict=False)
    )
    assert len(guided) > len(steps)
    assert {report.usage.extra_forward_tokens for report in found if report.row in kept} == {0}


def test_nothing_but_reading_happens_where_every_row_is_kept():
    model = fresh_model()
    registry_for(model)
    batch = prompts(4)
    plain, steps = _captured(model, batch)
    with searched(model, search_policy(cost_budget=1e5)) as (wrapped, found):
        tokens, guided = _captured(wrapped, batch)
    assert torch.equal(plain, tokens)
    assert all(torch.equal(one, other) for one, other in zip(steps, guided, strict=True))
    assert all(report.search.kept_tokens == len(ids) for report, ids in zip(found, answers(tokens, 42), strict=True))


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("free", [-1, 0.5, 1.5, 2.5, 4.5, 7.5, 10.5])
def test_the_search_begins_behind_the_last_safe_block(block, free):
    model = fresh_model()
    registry_for(model)
    batch, width = prompts(2), prompts(2)["input_ids"].shape[1]
    plain = answers(sampled(model, batch, min_new_tokens=12), width)
    parts = f"method: inference_guard, candidates: 3, block_tokens: {block}, keep: 2, retries: 0"
    with searched(model, search_policy(parts, final_check="none")) as (wrapped, found):
        with_judge(wrapped, Ramp(judge_of(wrapped)[0], free=free))
        tokens = answers(sampled(wrapped, batch, min_new_tokens=12), width)
    # At g tokens, g are read, and safe is what reads fewer than are free; the whole answer reads eleven.
    safe = max(count for count in range(0, 12, block) if count == 0 or count < free)
    for report, own, other in zip(found, plain, tokens, strict=True):
        assert report.search.kept_tokens == safe
        assert other[:safe] == own[:safe]
        assert len(other) == 12


def test_a_gap_in_safety_ends_what_is_kept():
    model = fresh_model()
    registry_for(model)

    class Dip:
        blocks = ()

        def cost(self, inputs):
            # Unsafe at six tokens alone, and at the end.
            return torch.where((inputs.read == 6) | (inputs.read > 9), 1.0, -1.0)

    with searched(model, search_policy(final_check="none")) as (wrapped, found):
        judge = Dip()
        judge.blocks = judge_of(wrapped)[0]
        with_judge(wrapped, judge)
        sampled(wrapped, prompts(1), min_new_tokens=12)
    assert found[0].search.kept_tokens == 3


def test_what_goes_on_is_shown_the_scores_of_a_pass_from_scratch():
    model = fresh_model()
    registry_for(model)
    batch, seen = prompts(2), Seen()
    with searched(model, search_policy(final_check="none")) as (wrapped, found):
        with_judge(wrapped, Ramp(judge_of(wrapped)[0], free=7))
        sampled(wrapped, batch, min_new_tokens=12, logits_processor=LogitsProcessorList([seen]))
    assert [report.search.kept_tokens for report in found] == [6, 6]
    width, full = batch["input_ids"].shape[1], [tuple(ids) for ids in batch["input_ids"].tolist()]
    # Behind the loop's twelve steps of two rows.
    continued = seen.rows[24:]
    assert min(len(ids) for ids, _ in continued) == width + 6
    for ids, scores in continued:
        logits, _ = passed_through(model, unpadded(batch)[full.index(ids[:width])], ids[width:])
        told = torch.isfinite(scores)
        assert torch.allclose(logits[-1][told], scores[told], atol=1e-4)


def test_an_answer_that_says_nothing_is_kept():
    model = fresh_model()
    registry_for(model)
    with searched(model, search_policy(cost_budget=-1e5)) as (wrapped, found):
        wrapped.generate(**prompts(2), max_new_tokens=5, do_sample=False, forced_eos_token_id=None,
                         suppress_tokens=[token for token in range(model.config.vocab_size) if token != EOS_ID])  # fmt: skip
    assert [(report.search.outcome, report.applied, report.search.cost) for report in found] == [
        ("kept", "guide", None)
    ] * 2


def test_a_prefilled_beginning_is_kept_and_does_not_count():
    model = fresh_model()
    registry = registry_for(model, probe_blocks=(1, 3))
    contents = [conversation("hello there"), conversation("how to cook")]
    batch = render(tokenizer(), contents, prefills=["Sure, here", None])
    with searched(model, search_policy(start="always", cost_budget=1e5), registry=registry) as (wrapped, found):
        tokens = sampled(wrapped, batch)
        judge = judge_of(wrapped)
    from tests.search_checks import answered, cost_from_scratch

    assert torch.equal(tokens[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    for prompt, answer, report in zip(unpadded(batch), answered(tokens, batch, end=EOS_ID), found, strict=True):
        assert report.search.cost == pytest.approx(cost_from_scratch(model, prompt, answer, judge), abs=1e-4)
