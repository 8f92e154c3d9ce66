"""What a report says that an answer costs is what it costs from scratch: kept, found or begun within, steered or not."""

from __future__ import annotations

import statistics

import pytest
import torch
from tests.guarded_models import answers, fresh_model, prompts, registry_for
from tests.search_checks import (
    Ramp,
    added_by,
    answered,
    cost_from_scratch,
    counted,
    forward_columns,
    judge_of,
    passed_through,
    unpadded,
)
from tests.searched_models import sampled, search_policy, searched, with_judge

from steerguard.plan.search_cost import Draw, search_tokens
from steerguard.testing.tokenizers import EOS_ID

STEERING = "method: inferaligner, artifact: inferaligner@^1, coefficient: 2.0"
SCHEDULES = ("constant", "by_phase", "by_step")


def _registry(model, schedule="constant"):
    # Steered before and between the blocks that are read, so that steering shows in the cost.
    return registry_for(model, probe_blocks=(1, 3), steered_blocks=(0, 1, 2), schedule=schedule, strength="0.5")


def _plain_costs(model, registry, batch, steering):
    with searched(model, search_policy(cost_budget=1e5, steering=steering), registry=registry) as (wrapped, found):
        sampled(wrapped, batch)
    return [report.search.plain_cost for report in found]


@pytest.mark.parametrize("steering", [None, *SCHEDULES])
def test_every_reported_cost_is_that_of_the_returned_answer(steering):
    model = fresh_model()
    registry = _registry(model, steering or "constant")
    batch = prompts(4)
    entry = STEERING if steering else ""
    plain = _plain_costs(model, registry, batch, entry)
    outcomes = set()
    for start in ("lazy", "always"):
        document = search_policy(start=start, cost_budget=statistics.median(plain), steering=entry)
        with searched(model, document, registry=registry) as (wrapped, found):
            tokens = sampled(wrapped, batch)
            judge, added = judge_of(wrapped), [added_by(wrapped, report) for report in found]
        assert any(added) == bool(steering)
        rows = zip(unpadded(batch), answered(tokens, batch, end=EOS_ID), found, added, strict=True)
        for prompt, answer, report, schedules in rows:
            outcomes.add(report.search.outcome)
            if report.applied == "refuse":
                continue
            cost = cost_from_scratch(model, prompt, answer, judge, added=schedules)
            assert report.search.cost == pytest.approx(cost, abs=2e-4)
            assert cost < report.search.cost_budget
            if schedules:
                unsteered = cost_from_scratch(model, prompt, answer, judge)
                assert abs(cost - unsteered) > 1e-2
    assert {"kept", "found"} <= outcomes


@pytest.mark.parametrize("steering", [None, *SCHEDULES])
def test_an_answer_that_goes_on_behind_its_last_safe_block_costs_what_it_costs(steering):
    model = fresh_model()
    registry = _registry(model, steering or "constant")
    batch = prompts(3)
    document = search_policy(final_check="none", steering=STEERING if steering else "")
    with searched(model, document, registry=registry) as (wrapped, found):
        ramp = Ramp(judge_of(wrapped)[0], free=7)
        with_judge(wrapped, ramp)
        tokens = sampled(wrapped, batch, min_new_tokens=12)
        added = [added_by(wrapped, report) for report in found]
    assert [report.search.kept_tokens for report in found] == [6, 6, 6]
    # The ramp tells how many tokens were read, and a little of what was read there.
    for prompt, answer, report, schedules in zip(
        unpadded(batch), answers(tokens, batch["input_ids"].shape[1]), found, added, strict=True
    ):
        assert report.search.cost == pytest.approx(_ramp(model, prompt, answer, ramp, schedules), abs=2e-4)


def _ramp(model, prompt, answer, ramp, added):
    _, states = passed_through(model, prompt, answer, blocks=ramp.blocks, added=added)
    own = slice(len(prompt), len(prompt) + len(answer) - 1)
    means = torch.stack([states[block][own].mean(dim=0) for block in ramp.blocks])
    noise = float(means.sum().tanh()) * 1e-2
    return len(answer) - 1 - 7 + noise


NEVER, FIRST_BLOCK, EVERYWHERE = -100.0, 5.5, 100.0
"""For how many tokens the ramp is safe."""


@pytest.mark.parametrize("tokens", [2, 5, 12, 15, 16])
@pytest.mark.parametrize(
    ("start", "safe"),
    [("always", NEVER), ("always", EVERYWHERE), ("lazy", EVERYWHERE), ("lazy", FIRST_BLOCK), ("lazy", NEVER)],
)
def test_no_column_passes_twice_and_the_formula_is_what_was_counted(start, safe, tokens):
    model = fresh_model()
    registry = registry_for(model)
    batch, width = prompts(1), prompts(1)["input_ids"].shape[1]
    parts = "method: inference_guard, candidates: 4, block_tokens: 5, keep: 2, retries: 2"
    with (
        searched(model, search_policy(parts, start=start, final_check="none"), registry=registry) as (wrapped, found),
        forward_columns(model) as passes,
    ):
        with_judge(wrapped, Ramp(judge_of(wrapped)[0], free=safe))
        sampled(wrapped, batch, max_new_tokens=tokens, min_new_tokens=tokens)
    report = found[0].search
    loop = [(1, width), *[(1, 1)] * (tokens - 1 if start == "lazy" else 0)]
    assert passes[: len(loop)] == loop
    assert counted(passes[len(loop) :]) == report.forward_tokens == found[0].usage.extra_forward_tokens
    assert {columns for _, columns in passes[len(loop) :]} <= {1}
    if start == "lazy" and tokens - 1 < safe:
        assert (report.outcome, report.forward_tokens) == ("kept", 0)
        return
    restarted = start == "lazy" and safe == FIRST_BLOCK and tokens > 5
    assert report.kept_tokens == (5 if restarted else 0)
    lengths = [min(5, tokens - begin) for begin in range(report.kept_tokens, tokens, 5)]
    draws = [
        # The last token of an answer is never run.
        Draw(rows=4, passes=length - (number == len(lengths) - 1))
        for number, length in enumerate(lengths)
        for _ in range(1 if safe == EVERYWHERE else 3)
    ]
    assert search_tokens(draws, restarted=restarted) == report.forward_tokens
    assert report.candidates_drawn == 4 * len(draws)
