"""A lazy search: what is within the budget is not touched by a bit; what is not goes on from its last safe block."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch
from tests.guarded_models import Capture, answers, conversation, fresh_model, prompts, registry_for, tokenizer
from tests.search_checks import Ramp, Seen, judge_of, passed_through, unpadded
from tests.searched_models import plain_costs, sampled, search_policy, searched, with_judge
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from steerguard.engine import searching
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


@pytest.mark.parametrize("pad", [0, 77])
def test_an_answer_of_the_padding_id_is_judged(pad):
    model = fresh_model()
    registry_for(model)
    only = [token for token in range(model.config.vocab_size) if token != pad]
    for free, outcome in [(-50, "no_candidate"), (100, "kept")]:
        with searched(model, search_policy("method: best_of_n, candidates: 1")) as (wrapped, found):
            judge = Ramp(judge_of(wrapped)[0], free=free)
            with_judge(wrapped, judge)
            tokens = sampled(wrapped, prompts(1), pad_token_id=pad, suppress_tokens=only, max_new_tokens=6)
        report = found[0]
        assert report.search.outcome == outcome
        # Five of the six went through the model.
        assert report.search.plain_cost == pytest.approx(5 - free, abs=0.02)
        if outcome == "kept":
            assert tokens[0, -6:].tolist() == [pad] * 6
            assert report.usage.generated_tokens == report.search.kept_tokens == 6


def test_where_rows_end_is_counted_and_not_told_by_their_tokens():
    model = fresh_model()
    registry_for(model)
    batch, width = prompts(4), prompts(4)["input_ids"].shape[1]

    class Ends(StoppingCriteria):
        """Ends row r behind 3 + r tokens."""

        def __call__(self, input_ids, _scores, **_kwargs):
            return torch.arange(len(input_ids)) + 3 <= input_ids.shape[1] - width

    # All tokens are the padding id, before and behind the end of a row.
    only = [token for token in range(model.config.vocab_size) if token != 77]
    with searched(model, search_policy(cost_budget=1e5)) as (wrapped, found):
        sampled(wrapped, batch, pad_token_id=77, suppress_tokens=only, stopping_criteria=StoppingCriteriaList([Ends()]))
    assert [report.search.kept_tokens for report in found] == [3, 4, 5, 6]
    assert [report.usage.generated_tokens for report in found] == [3, 4, 5, 6]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3_next"])
def test_marks_stay_within_the_memory_limit_and_a_search_begins_at_one_that_is_left(architecture, monkeypatch):
    model = fresh_model(architecture)
    registry_for(model)
    parts = "method: inference_guard, candidates: 2, block_tokens: 2, keep: 1, retries: 0"
    usual, seen, room, batch = searching.search_rows, [], [None], prompts(2)

    def note(batch, *rest):
        seen.append(batch.rows)
        return usual(batch, *rest)

    monkeypatch.setattr("steerguard.engine.sampling.search_rows", note)

    def run(free):
        with searched(model, search_policy(parts, final_check="none")) as (wrapped, found):
            engine = wrapped.guard.engine
            if room[0] is not None:
                limit = room[0] + engine.program.plan.cost.extra_bytes(2)
                plan = replace(engine.program.plan, max_extra_memory_bytes=limit)
                wrapped.guard._engine = wrapped.guard._policies._in_force = replace(
                    engine, program=replace(engine.program, plan=plan)
                )
            with_judge(wrapped, Ramp(judge_of(wrapped)[0], free=free))
            sampled(wrapped, batch, min_new_tokens=12)
        return found, seen[-1]

    found, rows = run(7)
    assert [report.search.kept_tokens for report in found] == [6, 6]
    sizes = {tokens: mark.bytes for tokens, mark in rows.marks.items()}
    assert sorted(set(sizes) - {12}) == [0, 2, 4, 6, 8, 10]
    sums = sum(one.bytes for one in rows.boundaries.values())
    if architecture == "llama":
        assert set(sizes.values()) == {0}
        room[0] = sums
        _, rows = run(100)
        assert sorted(set(rows.marks) - {12}) == [0, 2, 4, 6, 8, 10]
        return
    # Half of it: for the mark of the prompt, the sums, and two more marks.
    room[0] = 2 * (sums + sizes[0] + 2 * max(sizes.values()))
    found, rows = run(7)
    assert rows.kept_bytes <= room[0] // 2
    left = sorted(rows.marks)
    assert left[0] == 0
    assert 2 not in left
    assert 10 in left
    # Safe up to six tokens, which are marked no more.
    assert 6 not in left
    assert [report.search.kept_tokens for report in found] == [max(mark for mark in left if mark <= 6)] * 2
    assert all(report.search.candidates in {0, 1, 2} for report in found)
