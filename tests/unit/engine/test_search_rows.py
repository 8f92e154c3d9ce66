"""Which rows of a loop are searched for, and what is known of them before the search."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.guarded_models import fresh_model, prompts, registry_for
from tests.searched_models import sampled, search_policy, searched

from steerguard.engine import searching
from steerguard.engine.loop_settings import LoopSettings
from steerguard.engine.search_rows import RandomState, require_searchable
from steerguard.errors import UnsupportedGenerationError

PLAIN = LoopSettings(
    prompt_width=3,
    limit=4,
    samples=True,
    beams=False,
    copies=1,
    answers=1,
    pad=0,
    end_ids=(2,),
    records_states=False,
)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"beams": True}, "beam search"), ({"cached": False}, "use_cache"), ({"records_states": True}, "hidden_states")],
)
def test_what_a_search_cannot_replace_is_named(changed, named):
    require_searchable(PLAIN)
    with pytest.raises(UnsupportedGenerationError, match=named):
        require_searchable(replace(PLAIN, **changed))


def test_a_generator_goes_back_to_where_it_was():
    state = RandomState(torch.device("cpu"))
    first = torch.rand(3)
    state.restore()
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize(
    ("block", "marks", "boundaries"),
    [(1, [*range(12)], [*range(1, 12)]), (3, [0, 3, 6, 9, 12], [3, 6, 9]), (20, [0], [])],
)
def test_every_block_of_the_loops_answer_is_marked_and_read(block, marks, boundaries, monkeypatch):
    model = fresh_model()
    registry_for(model)
    usual, seen = searching.search_rows, []

    def note(batch, *rest):
        seen.append(batch.rows)
        return usual(batch, *rest)

    monkeypatch.setattr("steerguard.engine.sampling.search_rows", note)
    parts = f"method: inference_guard, candidates: 2, block_tokens: {block}, keep: 1, retries: 0"
    with searched(model, search_policy(parts, cost_budget=1e5)) as (wrapped, _):
        sampled(wrapped, prompts(2), min_new_tokens=12)
    rows = seen[0]
    # The last token of an answer is not run, so nothing goes on behind it.
    assert sorted(set(rows.marks) - {12}) == sorted(set(marks) - {12})
    assert sorted(rows.boundaries) == boundaries
    assert all(sums.read.tolist() == [tokens] * 2 for tokens, sums in rows.boundaries.items())
    assert rows.sums.read.tolist() == [11, 11]
    assert rows.always is None
