"""Limits of the budget that rows reached: which, by how much, and for which returned sequence."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import count

import pytest
from tests.guarded_models import (
    conversation,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
)
from tests.search_checks import Ramp
from tests.searched_models import sampled, search_policy, searched, with_judge

from steerguard.engine import searching
from steerguard.engine.exceeded import before_answers, exceeded, mebibytes
from steerguard.guidance.search.ledger import Ledger
from steerguard.testing import MemorySink

EARLY = "coefficient: 4.0, blocks: [0, 2]"


def _records(sink, kind="budget.exceeded"):
    return [record for record in map(json.loads, sink.lines) if record["type"] == kind]


def test_bytes_are_rounded_up_to_mebibytes():
    assert [mebibytes(count) for count in (0, 1, 2**20, 2**20 + 1)] == [0, 1, 1, 2]


def test_a_batch_over_the_memory_budget_says_how_much_it_would_take():
    model, sink = fresh_model("llama", hidden_size=256, num_blocks=16), MemorySink()
    registry = registry_for(model, steered_blocks=tuple(range(1, 16)))
    document = policy(-1e6, more="budget: {max_extra_memory_mib: 1}")
    with guarded(model, document, registry=registry, audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(1), max_new_tokens=2)
        assert _records(sink) == []
        batch = {name: tensor.repeat(70, 1) for name, tensor in prompts(1).items()}
        run(wrapped, batch, max_new_tokens=2)
        needed = wrapped.guard.plan.cost.extra_bytes(70)
        plan = wrapped.guard.plan.digest
    found = _records(sink)
    request = _records(sink, "guard.decision")[-1]["req"]
    assert [record["row"] for record in found] == list(range(70))
    assert {(record["req"], record["plan"]) for record in found} == {(request, plan)}
    assert {(record["limit"], record["allowed"], record["spent"], record["then"]) for record in found} == {
        ("max_extra_memory_mib", 1, -(-needed // 2**20), "refuse")
    }


def test_a_prompt_whose_extra_pass_is_over_the_budget_says_what_it_would_take():
    model, batch, sink = shared_model(), prompts(4), MemorySink()
    lengths = batch["attention_mask"].sum(1).tolist()
    limit = sorted(lengths)[2]
    document = policy(-1e6, settings=EARLY, more=f"budget: {{max_extra_forward_tokens: {limit}}}")
    with guarded(model, document, audit=memory_log(sink)) as wrapped:
        run(wrapped, batch)
        wrapped.guard.check([conversation("tell me a very long story about it")])
    over = lengths.index(max(lengths))
    found = _records(sink)
    assert [(record["row"], record["limit"], record["allowed"], record["spent"]) for record in found] == [
        (over, "max_extra_forward_tokens", limit, max(lengths)),
        (0, "max_extra_forward_tokens", limit, max(lengths)),
    ]
    assert [record["call"] for record in _records(sink, "guard.request")] == ["generate", "check"]
    assert found[1]["req"] == _records(sink, "guard.request")[1]["req"]


def test_beams_are_named_by_the_returned_sequence():
    batch, sink = prompts(4), MemorySink()
    longest = int(batch["attention_mask"].sum(1).max())
    document = policy(-1e6, settings=EARLY, more=f"budget: {{max_extra_forward_tokens: {2 * longest}}}")
    with guarded(shared_model(), document, audit=memory_log(sink)) as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, max_new_tokens=3, num_beams=3, num_return_sequences=2)
    refused = [report.row for report in reports if report.cause == "budget"]
    assert refused
    assert [record["row"] for record in _records(sink)] == refused


SEARCH = "method: inference_guard, candidates: 6, block_tokens: 6, keep: 1, retries: 0"
CHEAP = "{id: cheap, method: best_of_n, candidates: 2, critic: harm-cost@^1, start: always, cost_budget: {value: 0.0}}"
TOKENS = 12


def _search(tokens, *, fallback, milliseconds=600_000):
    """Search for one row under a cost that any answer is within; return what was recorded and reported."""
    sink, model = MemorySink(), shared_model()
    registry_for(model)
    after = "on_exceeded: fallback, fallback: [cheap]" if fallback else "on_exceeded: refuse"
    budget = f"{{max_extra_forward_tokens: {tokens}, max_added_latency_ms: {milliseconds}, {after}}}"
    document = search_policy(SEARCH, start="always", budget=budget, fallback=CHEAP if fallback else "")
    with searched(model, document, audit=memory_log(sink)) as (wrapped, reports):
        with_judge(wrapped, Ramp(wrapped.guard.engine.program.searches[0].cost.blocks, 100))
        sampled(wrapped, prompts(1), max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    return _records(sink), reports[0]


def test_a_search_within_the_budget_says_nothing():
    found, report = _search(100, fallback=True)
    assert (found, report.search.step) == ([], "search")


def test_a_search_that_falls_back_says_so_and_what_was_spent_by_then():
    (found,), report = _search(65, fallback=True)
    assert (report.applied, report.search.step) == ("guide", "cheap")
    assert (found["row"], found["limit"], found["allowed"], found["then"]) == (
        0,
        "max_extra_forward_tokens",
        65,
        "fallback",
    )
    assert 0 < found["spent"] <= report.search.forward_tokens


def test_a_row_that_is_refused_after_its_fallback_says_both():
    found, report = _search(40, fallback=True)
    assert (report.applied, report.cause) == ("refuse", "budget")
    assert [(record["allowed"], record["then"]) for record in found] == [(40, "fallback"), (40, "refuse")]
    assert found[0]["spent"] <= found[1]["spent"] == report.search.forward_tokens


def test_without_a_fallback_the_row_is_refused():
    (found,), report = _search(40, fallback=False)
    assert (report.cause, found["then"], found["spent"]) == ("budget", "refuse", report.search.forward_tokens)


def test_a_search_that_runs_out_of_time_says_by_how_much_and_tries_no_fallback(monkeypatch):
    now = count()
    monkeypatch.setattr(searching, "Ledger", lambda **limits: Ledger(clock=lambda: next(now) * 0.6, **limits))
    (found,), report = _search(100_000, fallback=True, milliseconds=1000)
    assert (report.cause, report.search.outcome) == ("budget", "latency")
    assert (found["limit"], found["allowed"], found["then"]) == ("max_added_latency_ms", 1000, "refuse")
    assert found["spent"] > 1000


def test_where_the_plan_has_no_limit_none_was_reached():
    with guarded(shared_model(), policy()) as wrapped:
        plan = replace(wrapped.guard.plan, max_extra_memory_bytes=None)
    assert exceeded(plan, 0, "max_extra_memory_mib", 3) == ()
    (found,) = exceeded(plan, 2, "max_added_latency_ms", None, then="fallback")
    assert (found.row, found.allowed, found.spent, found.then) == (2, plan.max_added_latency_ms, None, "fallback")


@pytest.mark.parametrize("threshold", [1e6, -1e6])
def test_within_the_budget_nothing_is_said(threshold):
    sink = MemorySink()
    with guarded(shared_model(), policy(threshold), audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(2))
    assert _records(sink) == []
    assert list(before_answers((), [0, 1], ())) == []
