"""The searches of one batch: whose answer stays, and what a row that is refused already gets."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import fresh_model, prompts, registry_for
from tests.search_checks import Ramp, forward_columns
from tests.searched_models import sampled, search_policy, searched, with_judge

from steerguard.engine import searching


def test_rows_that_are_refused_already_are_not_searched_for(monkeypatch):
    model = fresh_model()
    registry_for(model)
    usual = searching.search_rows
    found_rows = []

    def skip_the_first(batch, answers, skipped, trace):
        found = usual(batch, answers, {*skipped, 0}, trace)
        found_rows.extend(found)
        return found

    monkeypatch.setattr("steerguard.engine.sampling.search_rows", skip_the_first)
    with searched(model, search_policy(cost_budget=1e5)) as (wrapped, found):
        sampled(wrapped, prompts(3))
    assert found_rows == [1, 2]
    assert [report.search is None for report in found] == [True, False, False]


@pytest.mark.parametrize("start", ["lazy", "always"])
def test_a_search_that_has_nothing_to_choose_only_checks(start):
    model = fresh_model()
    registry_for(model)
    document = search_policy("method: best_of_n, candidates: 1", start=start, cost_budget=0.0)
    with searched(model, document) as (wrapped, found), forward_columns(model) as passes:
        with_judge(wrapped, Ramp(wrapped.guard.engine.program.searches[0].cost.blocks, free=5))
        sampled(wrapped, prompts(1), min_new_tokens=12)
    report = found[0]
    assert (report.applied, report.cause, report.search.outcome) == ("refuse", "no_candidate", "no_candidate")
    assert report.search.forward_tokens == (0 if start == "lazy" else 11)
    assert len(passes) == 12
    assert (report.search.plain_cost is None) == (start == "always")


def test_what_the_model_says_of_rows_that_are_not_finite_is_never_kept():
    model = fresh_model()
    registry_for(model)

    def spoil(_module, _arguments, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[0] == 4:
            # Of four candidates the last one is left.
            hidden[:3] = torch.nan

    document = search_policy("method: best_of_n, candidates: 4", start="always", final_check="none")
    with searched(model, document) as (wrapped, found):
        handle = model.model.layers[2].register_forward_hook(spoil)
        sampled(wrapped, prompts(1), min_new_tokens=12)
        handle.remove()
        tokens = sampled(wrapped, prompts(1), min_new_tokens=12)
    assert [report.search.outcome for report in found] == ["found", "found"]
    # Of several good ones the cheapest is given.
    assert found[1].search.cost <= found[0].search.cost
    assert torch.isfinite(tokens.float()).all()
