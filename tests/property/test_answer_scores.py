"""The score that a calibration records for an answer is the one that a rolling guard compares with its threshold."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from steerguard.build.answer_fit import highest_run
from steerguard.detect.linear_probe import LinearProbe
from steerguard.engine.watched_rows import WatchedRows
from steerguard.guidance.answer_watch import AnswerWatch

# A probe of width one with weight 1 and bias 0: its score is the state itself.
PROBE = LinearProbe(id="one", blocks=(0,), over=("end",), weight=torch.ones(1, 1), bias=torch.zeros(1))
SCORES = st.floats(min_value=-8, max_value=8, width=32)


def cut(reads, threshold, in_a_row, begun):
    """Whether a guard cuts an answer with these reads, the first of them at the end of a forced beginning or not."""
    watch = AnswerWatch(
        step="watch", probe=PROBE, threshold=threshold, fpr=None, first=1, every=1, in_a_row=in_a_row, opens=()
    )
    rows = WatchedRows(watch, torch.tensor([begun]), copies=1)
    rows.choose(torch.tensor([True]))
    # A neighbour that was begun by force makes every row pass the read at the prompt's end; only begun ones count it.
    numbered = [*([] if begun else [(0, 100.0)]), *enumerate(reads, start=0 if begun else 1)]
    for generated, score in numbered:
        rows.read(0, torch.tensor([[score]]))
        rows.decide(generated, torch.tensor([False]))
    return bool(rows.stopped)


@given(
    reads=st.lists(SCORES, max_size=12),
    in_a_row=st.integers(min_value=1, max_value=4),
    threshold=SCORES,
    begun=st.booleans(),
)
def test_a_guard_cuts_an_answer_exactly_when_its_score_reaches_the_threshold(reads, in_a_row, threshold, begun):
    assert cut(reads, threshold, in_a_row, begun) == (highest_run(torch.tensor(reads), in_a_row) >= threshold)


@given(reads=st.lists(SCORES, min_size=1, max_size=12), in_a_row=st.integers(min_value=1, max_value=4))
def test_more_reads_in_a_row_never_raise_a_score_and_more_reads_never_lower_one(reads, in_a_row):
    scores = torch.tensor(reads)
    assert highest_run(scores, in_a_row + 1) <= highest_run(scores, in_a_row)
    assert highest_run(scores[:-1], in_a_row) <= highest_run(scores, in_a_row)
