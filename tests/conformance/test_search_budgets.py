"""No budget is exceeded, and the fallbacks of a policy are tried in their order before a row is refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.guarded_models import TEMPLATE, prompts, registry_for, shared_model
from tests.search_checks import Ramp, counted, forward_columns
from tests.searched_models import sampled, search_policy, searched, text_of, with_judge

from steerguard.engine import searching
from steerguard.engine.cache_kinds import states
from steerguard.errors import BudgetInfeasibleError
from steerguard.guidance.search.ledger import Ledger

TOKENS = 12
SEARCH = "method: inference_guard, candidates: {n}, block_tokens: {block}, keep: {keep}, retries: {retries}"
FALLBACK = (
    "{id: cheap, method: best_of_n, candidates: 2, critic: harm-cost@^1, start: always, cost_budget: {value: %s}}"
)
LONG = "max_added_latency_ms: 600000"


def _budget(tokens, *, candidates=64, memory=None, fallback=False):
    parts = [f"max_extra_forward_tokens: {tokens}", f"max_candidates: {candidates}", LONG]
    if memory is not None:
        parts.append(f"max_extra_memory_mib: {memory}")
    if fallback:
        parts += ["on_exceeded: fallback", "fallback: [cheap]"]
    return "{" + ", ".join(parts) + "}"


def _run(document, *, free=100, rows=1, seed=7, limit=TOKENS):
    """Search under a ramp; return the reports, the passes of the search, and what was answered."""
    model = shared_model()
    registry_for(model)
    batch = prompts(rows)
    with searched(model, document) as (wrapped, found), forward_columns(model) as passes:
        with_judge(wrapped, Ramp(wrapped.guard.engine.program.searches[0].cost.blocks, free))
        tokens = sampled(wrapped, batch, max_new_tokens=limit, min_new_tokens=limit, seed=seed)
    said = [text_of(ids).strip() for ids in tokens[:, batch["input_ids"].shape[1] :]]
    return found, passes, said


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    limit=st.integers(1, 160),
    n=st.integers(1, 6),
    block=st.integers(1, 14),
    retries=st.integers(0, 2),
    start=st.sampled_from(["lazy", "always"]),
    final_check=st.sampled_from(["cost_model", "none"]),
    free=st.sampled_from([-50, 4.5, 7.5, 100]),
    fallback=st.booleans(),
    most=st.integers(1, 64),
)
def test_no_budget_of_forward_tokens_is_exceeded(limit, n, block, retries, start, final_check, free, fallback, most):
    search = SEARCH.format(n=n, block=block, keep=min(n, 2), retries=retries)
    document = search_policy(
        search,
        start=start,
        final_check=final_check,
        budget=_budget(limit, candidates=most, fallback=fallback),
        fallback=FALLBACK % 0.0 if fallback else "",
    )
    try:
        found, passes, said = _run(document, free=free)
    except BudgetInfeasibleError:
        # One block costs more than the whole answer may, or there are too many candidates.
        assert n * block > limit or n > most or (fallback and (most < 2 or limit < 2))
        return
    report = found[0]
    loop = 1 + (TOKENS - 1 if start == "lazy" else 0)
    assert counted(passes[loop:]) == report.search.forward_tokens == report.usage.extra_forward_tokens <= limit
    assert all(rows <= max(n, 2 if fallback else 1) for rows, _ in passes[loop:])
    if report.applied == "refuse":
        assert TEMPLATE.startswith(said[0])
        assert report.cause in {"budget", "no_candidate"}
        assert (report.cause == "budget") == (report.search.outcome in searching.BUDGET_OUTCOMES)
    elif report.search.step == "cheap" or final_check == "cost_model":
        assert report.search.cost < report.search.cost_budget
    if report.search.step == "cheap":
        assert fallback


@pytest.mark.parametrize(
    ("tokens", "step", "applied"), [(100, "search", "guide"), (65, "cheap", "guide"), (40, "cheap", "refuse")]
)
def test_the_fallback_goes_on_with_what_is_left(tokens, step, applied):
    search = SEARCH.format(n=6, block=6, keep=1, retries=0)
    document = search_policy(search, start="always", budget=_budget(tokens, fallback=True), fallback=FALLBACK % 0.0)
    found, passes, said = _run(document)
    report = found[0]
    assert (report.search.step, report.applied) == (step, applied)
    assert counted(passes[1:]) == report.search.forward_tokens <= tokens
    if applied == "refuse":
        assert (report.cause, report.search.outcome) == ("budget", "forward_tokens")
        assert TEMPLATE.startswith(said[0])


def test_without_a_fallback_a_row_over_its_budget_is_refused():
    document = search_policy(SEARCH.format(n=6, block=2, keep=1, retries=0), start="always", budget=_budget(40))
    found, _, said = _run(document)
    assert (found[0].cause, found[0].search.outcome, found[0].search.cost) == ("budget", "forward_tokens", None)
    assert TEMPLATE.startswith(said[0])


def test_what_no_candidate_ends_no_fallback_goes_on():
    document = search_policy(
        SEARCH.format(n=4, block=3, keep=1, retries=0),
        start="always",
        budget=_budget(500, fallback=True),
        fallback=FALLBACK % 0.0,
    )
    found, _, _ = _run(document, free=-50)
    assert (found[0].search.step, found[0].cause) == ("search", "no_candidate")


class _Clock:
    """Seconds that pass with each question."""

    def __init__(self, step):
        self._now, self._step = 0.0, step

    def __call__(self):
        self._now += self._step
        return self._now


@pytest.mark.parametrize(("step", "applied"), [(0.001, "guide"), (0.6, "refuse")])
def test_a_search_that_takes_too_long_ends_between_blocks(step, applied, monkeypatch):
    monkeypatch.setattr(searching, "Ledger", lambda **limits: Ledger(clock=_Clock(step), **limits))
    budget = "{max_extra_forward_tokens: 100000, max_candidates: 64, max_added_latency_ms: 1000}"
    document = search_policy(SEARCH.format(n=4, block=3, keep=1, retries=0), start="always", budget=budget)
    found, passes, _ = _run(document)
    report = found[0]
    assert report.applied == applied
    if applied == "refuse":
        assert (report.cause, report.search.outcome) == ("budget", "latency")
        assert report.search.late_ms > 0
        # Blocks that were under way came to their end.
        assert len(passes[1:]) % 3 == 0


def test_one_time_limit_holds_for_all_rows_of_a_call_and_no_fallback_follows(monkeypatch):
    model, now = shared_model(), [0.0]
    registry_for(model)
    monkeypatch.setattr(searching, "Ledger", lambda **limits: Ledger(clock=lambda: now[0], **limits))

    class Slow(Ramp):
        """Takes a second for each judgement."""

        def cost(self, inputs):
            now[0] += 1.0
            return super().cost(inputs)

    # A row takes four blocks, so the second one has time for two.
    budget = "{max_extra_forward_tokens: 100000, max_added_latency_ms: 5500, on_exceeded: fallback, fallback: [cheap]}"
    document = search_policy(
        SEARCH.format(n=4, block=3, keep=1, retries=0), start="always", budget=budget, fallback=FALLBACK % 0.0
    )
    with searched(model, document) as (wrapped, found), forward_columns(model) as passes:
        with_judge(wrapped, Slow(wrapped.guard.engine.program.searches[0].cost.blocks, 100))
        sampled(wrapped, prompts(3), min_new_tokens=TOKENS)
    assert [(report.cause, report.search.outcome, report.search.step) for report in found] == [
        ("rule", "found", "search"),
        ("budget", "latency", "search"),
        ("budget", "latency", "search"),
    ]
    assert [report.search.late_ms for report in found] == [0, 500, 500]
    assert found[2].search.forward_tokens == found[2].search.candidates_drawn == 0
    assert counted(passes[1:]) == sum(report.search.forward_tokens for report in found)


def _held_by_candidates(model, document, limit):
    """The most bytes of keys and values that one pass of candidates has held, and how many rows."""
    most = {}

    def note(_module, _arguments, named):
        cache = named.get("past_key_values")
        if cache is not None and cache.get_seq_length() and named["input_ids"].shape[1] == 1:
            rows = named["input_ids"].shape[0]
            most[rows] = max(most.get(rows, 0), sum(state.numel() * state.element_size() for state in states(cache)))

    handle = model.get_decoder().register_forward_hook(
        lambda module, arguments, named, _output: note(module, arguments, named), with_kwargs=True
    )
    try:
        if document is None:
            sampled(model, prompts(1), num_return_sequences=6, max_new_tokens=limit, min_new_tokens=limit)
        else:
            _run(document, limit=limit)
    finally:
        handle.remove()
    return most


def test_candidates_hold_no_more_than_as_many_returned_sequences():
    model = shared_model()
    document = search_policy(SEARCH.format(n=6, block=4, keep=2, retries=1), start="always")
    one, other = _held_by_candidates(model, None, 24), _held_by_candidates(model, document, 24)
    assert max(one) == max(other) == 6
    assert other[6] <= 1.05 * one[6]


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_of_memory_halves_the_candidates_before_the_search(seed):
    model = shared_model()
    limit = 120
    document = search_policy(SEARCH.format(n=32, block=4, keep=1, retries=0), start="always")
    held = _held_by_candidates(model, document, limit)[32]
    mib = random.Random(seed).randint(1, 2 * held // 2**20 + 1)
    document = search_policy(
        SEARCH.format(n=32, block=4, keep=1, retries=0), start="always", budget=_budget(100000, memory=mib)
    )
    found, passes, _ = _run(document, limit=limit)
    rows = max((rows for rows, _ in passes[1:]), default=0)
    assert rows in {0, 1, 2, 4, 8, 16, 32}
    assert rows * held / 32 <= mib * 2**20
    assert found[0].search.candidates == rows or found[0].cause == "budget"
