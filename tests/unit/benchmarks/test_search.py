"""What `benchmarks/search.py` derives from answers and costs: best-of-N, budgets, comparisons, tables."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from benchmarks.figures import ROOT, rewritten

FOLDER = str(ROOT / "benchmarks")


@pytest.fixture
def module(monkeypatch):
    """Benchmarks import each other by their plain names, as scripts do."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


class LastPart:
    """A cost model that reads the one number of an answer; nan where nothing was read."""

    blocks = (12,)
    threshold = 0.5

    def cost(self, inputs):
        return inputs.means[:, 0, 0].masked_fill(inputs.read == 0, torch.nan)


def draws_of(module, costs, *, read=None):
    """Answers of two tokens each, the first of which is its place; block 12 holds the cost."""
    costs = torch.tensor(costs)
    means = torch.zeros(*costs.shape, 3, 1)
    means[:, :, 0, 0] = costs
    tokens = [[[place, 2] for place in range(costs.shape[1])] for _ in range(costs.shape[0])]
    counted = torch.ones(costs.shape, dtype=torch.int64) if read is None else torch.tensor(read)
    return module("search_draws").Draws(tokens=tokens, means=means, read=counted)


def cell_of(module, rows, *, method="ig_8_always", scores=None):
    cell = module("search_figures").Cell(
        method=method,
        title=method,
        set="prefilled",
        on="a set",
        rows=rows,
        texts=["one two three"] * len(rows),
        begins=["Sure."] * len(rows),
        forward_tokens=[10] * len(rows),
    )
    if scores is not None:
        cell.judged["words.whole"] = scores
        cell.flags["words.whole"] = [score > 0.5 for score in scores]
    return cell


def row_of(module, cost, *, refused=False, budget=0.5, tokens=(1, 2)):
    return module("search_runs").Row(
        tokens=list(tokens),
        refused=refused,
        cost=cost,
        plain_cost=None,
        budget=budget,
        outcome="no_candidate" if refused else "found",
        forward_tokens=10,
        candidates=8,
        retries=0,
    )


def test_best_of_n_gives_the_cheapest_of_the_first_n(module):
    cheapest = module("search_runs").cheapest
    draws = draws_of(module, [[0.4, 0.3, 0.1, 0.2]])
    assert [row.tokens[0] for n in (1, 2, 4) for row in cheapest(draws, LastPart(), n, checked=True)] == [0, 1, 2]


def test_best_of_n_refuses_at_the_budget_and_not_below_it(module):
    cheapest = module("search_runs").cheapest
    draws = draws_of(module, [[0.5, 0.7], [0.49, 0.7]])
    assert [row.refused for row in cheapest(draws, LastPart(), 2, checked=True)] == [True, False]
    unchecked = cheapest(draws, LastPart(), 2, checked=False)
    assert [(row.refused, round(row.cost, 2)) for row in unchecked] == [(False, 0.5), (False, 0.49)]


def test_an_answer_without_a_token_is_no_candidate_and_alone_it_is_refused(module):
    cheapest = module("search_runs").cheapest
    draws = draws_of(module, [[-9.0, 0.2], [-9.0, -9.0]], read=[[0, 1], [0, 0]])
    found = cheapest(draws, LastPart(), 2, checked=True)
    assert [row.refused for row in found] == [False, True]
    assert found[0].tokens[0] == 1


def test_answers_side_by_side_take_as_many_passes_as_the_longest(module):
    draws = draws_of(module, [[0.1, 0.2, 0.3]])
    draws.tokens[0][2] = [7] * 12
    cheapest = module("search_runs").cheapest
    assert [cheapest(draws, LastPart(), n, checked=True)[0].forward_tokens for n in (1, 2, 3)] == [1, 2, 33]


def test_a_round_keeps_the_mean_over_the_tokens_before_the_end(module):
    kept = module("search_draws")._kept
    # Eight copies of one prompt; the third token ends the answer, and what runs behind it does not count.
    ids = torch.tensor([[5, 6, 2, 9]] * 8)
    passes = [torch.full((8, 1), float(number)) for number in (100, 1, 3, 50)]
    found = kept(ids, [passes, passes, passes], end=2)
    assert found["tokens"][0][0] == [5, 6, 2]
    assert found["read"].tolist() == [[2] * 8]
    assert found["means"][0, 0].flatten().tolist() == [2.0] * 3


def test_within_the_budget_means_below_it_and_not_refused(module):
    within = module("search_figures").within
    rows = [row_of(module, 0.49), row_of(module, 0.5), row_of(module, None), row_of(module, None, refused=True)]
    assert [within(row) for row in rows] == [True, False, True, False]


def test_a_refusal_is_harmless_to_every_judge(module):
    judge = SimpleNamespace(threshold=0.4, probabilities=lambda _prompts, texts: [0.9 for _ in texts])
    cell = cell_of(module, [row_of(module, 0.1), row_of(module, None, refused=True)])
    cell.judge("words", judge)
    assert cell.judged["words.whole"] == cell.judged["words.generated"] == [0.9, 0.0]
    assert cell.flags["words.whole"] == [True, False]


def test_a_judge_reads_forced_beginnings_in_one_reading_only(module):
    seen = []
    judge = SimpleNamespace(threshold=0.4, probabilities=lambda _prompts, texts: [seen.append(t) or 0.1 for t in texts])
    cell_of(module, [row_of(module, 0.1)]).judge("words", judge)
    assert seen == ["Sure.one two three", "one two three"]


def test_compared_rows_are_paired_and_answered_ones_are_answered_by_both(module):
    first = cell_of(module, [row_of(module, 0.1), row_of(module, 0.2)], scores=[0.2, 0.4])
    second = cell_of(module, [row_of(module, 0.3), row_of(module, None, refused=True)], scores=[0.5, 0.0])
    by_id = {one["id"]: one for one in module("search_figures").compared(first, second, equal_tokens=True)}
    name = "prefilled.ig_8_always.ig_8_always"
    assert by_id[f"{name}.returned.words.whole"]["difference"]["value"] == "0.0500"
    assert by_id[f"{name}.answered.words.whole"]["n"] == 1
    assert by_id[f"{name}.answered.words.whole"]["difference"]["value"] == "-0.3000"
    assert by_id[f"{name}.answered.cost"]["difference"]["value"] == "-0.2000"


def test_the_promise_counts_every_returned_answer_over_the_budget(module):
    rows = [row_of(module, 0.1), row_of(module, 0.6), row_of(module, None, refused=True)]
    cells = {"ig_8_always.prefilled": cell_of(module, rows)}
    found = {one["id"]: one for one in module("search_bars").bars(cells, [])}
    assert (found["promise"]["value"], found["promise"]["met"]) == ("1", False)
    assert found["reached.ig_8_always"]["value"].startswith("0.3333 (1 of 3)")


def test_documents_show_the_tables_that_the_result_holds(module, tmp_path):
    cell = cell_of(module, [row_of(module, 0.1)], scores=[0.2])
    report = {"cells": [cell.figures()], "comparisons": [], "bars": [], "judges": {}}
    tables = module("search_tables").tables(report)
    (tmp_path / "search.json").write_text(json.dumps({"tables": tables}), encoding="utf-8")
    page = "<!-- figures:search prefilled. -->\n<!-- /figures -->\n"
    text, missing = rewritten(page, tmp_path)
    assert missing == []
    assert "| ig_8_always | a set | 1 | 0.1000, 0.1000 to 0.1000 |" in text
