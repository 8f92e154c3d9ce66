"""From a finished loop to what is returned: lengths, ends of sequences, shares of the cost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.engine.finish import _answer, _fed_back, _share, returned_rows
from steerguard.errors import GuidanceDidNotFireError


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_shares_are_whole_as_even_as_possible_and_add_up(total, parts):
    shares = [_share(total, parts, index) for index in range(parts)]
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1


def test_the_shares_of_every_prompt_of_a_batch_are_alike():
    assert [_share(7, 3, index) for index in range(6)] == [3, 2, 2, 3, 2, 2]


def _run(*, passes, beams, rows=6, copies=3, answers=2, width=4):
    settings = SimpleNamespace(prompt_width=width, beams=beams, copies=copies, answers=answers)
    return SimpleNamespace(passes=passes, settings=settings, request=SimpleNamespace(rows=rows))


def test_each_returned_sequence_stands_for_rows_of_its_own_prompt():
    assert returned_rows(_run(passes=1, beams=True)) == (0, 1, 3, 4)
    assert returned_rows(_run(passes=1, beams=False, copies=1, answers=1, rows=3)) == (0, 1, 2)


@pytest.mark.parametrize(("beams", "generated"), [(False, 5), (True, 5), (True, 2)])
def test_the_loops_own_passes_say_how_many_tokens_were_fed_back(beams, generated):
    assert _fed_back(_run(passes=5, beams=beams), torch.zeros(1, 4 + generated)) == 4


@pytest.mark.parametrize(("beams", "generated"), [(False, 4), (False, 6), (True, 6)])
def test_sequences_that_cannot_come_from_the_loop_raise(beams, generated):
    with pytest.raises(GuidanceDidNotFireError, match="length"):
        _fed_back(_run(passes=5, beams=beams), torch.zeros(1, 4 + generated))


@pytest.mark.parametrize(
    ("ids", "answer"),
    [
        ([7, 8, 2, 0, 0], (7, 8, 2)),
        ([7, 8, 0, 0], (7, 8)),
        ([7, 0, 8, -1, -1], (7, 0, 8)),
        ([7, 2, 2, 2], (7, 2)),
        ([0, 0], ()),
    ],
)
def test_an_answer_ends_with_its_end_and_without_what_fills_it(ids, answer):
    assert _answer(ids, (2,), 0) == answer
