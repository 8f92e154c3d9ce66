"""What searches cost: counted by hand, and never above the bound that is told before they begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.artifact_samples import sample_facts

from steerguard.methods.search_parts import SearchParts
from steerguard.plan.search_cost import Draw, chooses, draw_tokens, most_search_tokens, search_bytes, search_tokens


def parts(**changes):
    fields = {
        "candidates": 4,
        "block_tokens": 8,
        "keep": 2,
        "retries": 1,
        "start": "lazy",
        "final_check": "cost_model",
        "value": "cost",
        "tracks_safety": True,
    }
    return SearchParts(**(fields | changes))


def test_a_search_costs_its_rows_times_its_passes():
    draws = [Draw(rows=4, passes=8), Draw(rows=4, passes=8), Draw(rows=2, passes=3)]
    assert search_tokens(draws, restarted=False) == 32 + 32 + 6
    assert search_tokens(draws, restarted=True) == 71
    assert search_tokens([], restarted=False) == 0


@pytest.mark.parametrize(
    ("changes", "new_tokens", "most"),
    [
        ({}, 16, 2 * 2 * 32 + 1),
        ({}, 17, 3 * 2 * 32 + 1),
        ({"start": "always"}, 16, 2 * 2 * 32),
        ({"retries": 0}, 8, 32 + 1),
        ({}, 5, 2 * 4 * 5 + 1),
        ({"block_tokens": None, "retries": 0}, 100, 400 + 1),
        ({"block_tokens": 1, "retries": 0}, 100, 400 + 1),
        ({"candidates": 1, "block_tokens": None, "retries": 0}, 100, 0),
        ({"candidates": 1, "block_tokens": None, "retries": 0, "start": "always"}, 100, 100),
    ],
)
def test_the_bound_counted_by_hand(changes, new_tokens, most):
    assert most_search_tokens(parts(**changes), new_tokens) == most


def test_a_lazy_search_of_one_whole_answer_has_nothing_to_draw():
    assert not chooses(parts(candidates=1, block_tokens=None))
    assert chooses(parts(candidates=1))
    assert chooses(parts(candidates=1, block_tokens=None, start="always"))
    assert chooses(parts(block_tokens=None))


@st.composite
def realised(draw):
    """A search as it may have gone: blocks up to the limit, each drawn again up to the retries, rows that ended early."""
    found = parts(
        candidates=draw(st.integers(1, 9)),
        block_tokens=draw(st.none() | st.integers(1, 20)),
        retries=draw(st.integers(0, 3)),
        start=draw(st.sampled_from(["lazy", "always"])),
    )
    limit = draw(st.integers(1, 60))
    left, draws = limit, []
    while left > 0:
        block = left if found.block_tokens is None else min(found.block_tokens, left)
        rows, passes = st.integers(1, found.candidates), st.integers(0, block)
        tries = st.lists(st.builds(Draw, rows=rows, passes=passes), min_size=1, max_size=1 + found.retries)
        draws += draw(tries)
        left -= block
    begun_within = found.start == "lazy" and draw(st.booleans())
    return found, limit, draws if chooses(found) else [], begun_within and chooses(found)


@given(realised())
def test_no_search_costs_more_than_its_bound(case):
    found, limit, draws, restarted = case
    assert search_tokens(draws, restarted=restarted) <= most_search_tokens(found, limit)


@given(realised())
def test_no_draw_costs_more_than_its_bound(case):
    found, limit, draws, _ = case
    assert all(search_tokens([one], restarted=False) <= draw_tokens(found, limit) for one in draws)


def test_candidates_hold_a_cache_each_and_what_is_read_of_them():
    facts = sample_facts(cache_width=6, num_blocks=5, hidden_size=8, dtype="bfloat16")
    found = search_bytes(parts(), facts, prompt_tokens=10, new_tokens=20, read_blocks=3)
    assert found == 4 * (2 * 5 * 6 * 30 + 2 * 4 * 8 * 3 + 8)
    assert search_bytes(parts(), facts, prompt_tokens=10, new_tokens=20, read_blocks=0) == 4 * 2 * 5 * 6 * 30
    nothing = parts(candidates=1, block_tokens=None)
    assert search_bytes(nothing, facts, prompt_tokens=10, new_tokens=20, read_blocks=3) == 0


def test_without_a_known_cache_nothing_is_claimed():
    assert search_bytes(parts(), sample_facts(), prompt_tokens=10, new_tokens=20, read_blocks=3) is None
