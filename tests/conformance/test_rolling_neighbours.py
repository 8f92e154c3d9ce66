"""Answers that are read while they are written, beside neighbours that go on: what a row or prompt comes to is its own."""

from __future__ import annotations

import pytest
from tests.guarded_models import conversation, guarded, policy, prompts, shared_model, tokenizer
from tests.rolling_guards import STEER, UNREACHED, rolling

from steerguard.models.chat import render

END = 13
"""A token that ends some beams of the two prompts early and others late."""
SEARCH = {"num_beams": 2, "do_sample": False, "max_new_tokens": 24, "eos_token_id": END, "pad_token_id": 0}
LONGEST = "tell me a very long story about it"
TWO = """
rules:
  - {id: r, when: {always: true}, then: {action: guide, use: [first, second]}}
default: {action: allow}"""


def _picked(batch, rows):
    return {name: tensor[rows] for name, tensor in batch.items()}


def _generated(document, batch, *, mode=None, **settings):
    with guarded(shared_model(), document, mode=mode) as wrapped, wrapped.guard.collect() as reports:
        wrapped.generate(**batch, **settings)
    return reports


def _highest(batch, **settings):
    reports = _generated(rolling(UNREACHED, every=1), batch, mode="monitor", **settings)
    return [(report.readings[-1].score, report.readings[-1].token) for report in reports]


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_prompt_whose_search_has_ended_is_read_no_more_while_its_neighbours_search(early_stopping):
    batch = render(tokenizer(), [conversation(text) for text in ("x", "sing a song", LONGEST)])
    settings = {**SEARCH, "early_stopping": early_stopping}
    alone = [_highest(_picked(batch, [row]), **settings)[0] for row in (0, 1)]
    together = _highest(_picked(batch, [0, 1]), **settings)
    for (score, token), (expected, at) in zip(together, alone, strict=True):
        assert token == at
        assert score == pytest.approx(expected, abs=1e-4)
    # The loop went on behind the highest score of the prompt that ended first: the threshold lies out of its reach.
    if early_stopping:
        threshold = alone[0][0] + 0.05
        reports = _generated(rolling(threshold, every=1), _picked(batch, [0, 1]), **settings)
        assert reports[0].applied == "guide"


def _two_watches(first, second, then=""):
    entries = (
        f"  - {{id: first, method: rolling_guard, artifact: harmful-intent@^1, threshold: {{value: {first}}}, "
        "every: 500, first: 2}\n"
        f"  - {{id: second, method: rolling_guard, artifact: harmful-intent@^1, threshold: {{value: {second}}}, "
        f"every: 1, first: 2{then}}}\n"
    )
    return policy(rules=TWO, detector=False, more=f"guidance:\n{entries}{STEER if then else ''}")


@pytest.mark.parametrize("copies", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("then", ["", ", then: open, opens: [push]"])
def test_a_row_that_one_watch_refused_is_neither_read_nor_steered_by_another(then, copies):
    batch, row = prompts(4), 2
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, **copies}
    low = _two_watches(1.0, -8.0 if then else UNREACHED, then)
    together = _generated(low, batch, **settings)
    alone = _generated(low, _picked(batch, [row]), **settings)[0]
    assert {report.applied for report in together} > {"refuse"}, "some rows must go on"
    assert together[row].applied == alone.applied == "refuse"
    found, expected = together[row].readings, alone.readings
    assert [(one.source, one.token) for one in found] == [(one.source, one.token) for one in expected]
    assert all(one.token == 2 for one in found)
    assert together[row].doses == alone.doses == ()
