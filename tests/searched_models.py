"""Policies that search on tiny models, and the ways to look at what a search did."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import replace

import torch
from tests.guarded_models import fresh_model, guarded, prompts, registry_for, tokenizer

from steerguard.engine.search_program import named_failures
from steerguard.policy.load import parse_policy

INFERENCE_GUARD = "method: inference_guard, candidates: 4, block_tokens: 3, keep: 2, retries: 1"
BUDGET = "{max_extra_forward_tokens: 100000, max_candidates: 64, max_added_latency_ms: 600000}"


def search_policy(
    search=INFERENCE_GUARD,
    *,
    start="lazy",
    cost_budget=0.0,
    final_check="cost_model",
    steering="",
    budget=BUDGET,
    fallback="",
    mode="enforce",
    more="",
):
    """A policy that searches for every row; `steering` is a guidance entry `steer` that is opened too."""
    use = "[steer, search]" if steering else "[search]"
    entry = f"{{id: search, {search}, critic: harm-cost@^1, start: {start}, cost_budget: {{value: {cost_budget}}}"
    entry += f", final_check: {final_check}{more}}}"
    entries = [*([f"{{id: steer, {steering}}}"] if steering else []), entry, *([fallback] if fallback else [])]
    guidance = "\n".join(f"  - {one}" for one in entries)
    return parse_policy(
        f"""
apiVersion: steerguard/v1alpha1
kind: GuidancePolicy
metadata: {{name: search, version: 1.0.0, description: for tests, owner: tests}}
mode: {mode}
target: {{modalities: [text, image, audio, video]}}
guidance:
{guidance}
rules:
  - {{id: r, when: {{always: true}}, then: {{action: guide, use: {use}}}}}
default: {{action: allow}}
budget: {budget}
refusal: {{template: "I cannot help with that."}}
""",
        file="search.yaml",
    )


@contextmanager
def searched(model, document=None, **named):
    """The model under a policy that searches; the reports of all calls inside are gathered."""
    with guarded(model, document or search_policy(), **named) as wrapped, wrapped.guard.collect() as reports:
        yield wrapped, reports


@functools.cache
def plain_costs(architecture="llama", rows=4, tokens=12, seed=7):
    """What the plain answers to `prompts` cost, by row."""
    model = fresh_model(architecture)
    registry_for(model)
    with searched(model, search_policy(cost_budget=1e5)) as (wrapped, reports):
        sampled(wrapped, prompts(rows), max_new_tokens=tokens, seed=seed)
    return [report.search.plain_cost for report in reports]


def sampled(model, batch, *, seed=7, **settings):
    """Sample with a fixed generator; twelve tokens at temperature 1 unless told otherwise."""
    settings = {"max_new_tokens": 12, "do_sample": True, "top_k": 0, "pad_token_id": 0, **settings}
    torch.manual_seed(seed)
    return model.generate(**batch, **settings)


def with_judge(wrapped, cost):
    """Put another cost model in the place of the one that the wrapped model's searches ask."""
    engine = wrapped.guard.engine
    searches = tuple(named_failures(replace(search, cost=cost)) for search in engine.program.searches)
    wrapped.guard._engine = wrapped.guard._policies._in_force = replace(
        engine, program=replace(engine.program, searches=searches)
    )


def text_of(tokens):
    return tokenizer().decode(tokens, skip_special_tokens=True)
