"""Batches hold every row once, and the search for their size stops where it should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerguard.evaluate.batches import TOKENS_PER_ROW, Trial, batch_jobs, choose_batch_size, length_batches


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(1, 9))
def test_every_row_is_in_one_batch_and_no_batch_is_too_large(lengths, size):
    batches = length_batches(lengths, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        widest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or (len(batch) <= size and len(batch) * widest <= size * TOKENS_PER_ROW)
    widths = [lengths[index] for batch in batches for index in batch]
    assert widths == sorted(widths, reverse=True)


def test_rows_of_one_length_keep_their_order():
    assert length_batches([5, 5, 9, 5], 2) == ((2, 0), (1, 3))


def test_every_run_has_the_same_batches():
    jobs = batch_jobs(["unguided", "p"], {"a": ((1, 0), (2,)), "b": ((0,),)})
    assert [(job.run, job.set, job.indices) for job in jobs] == [
        (run, name, indices) for run in ("unguided", "p") for name, indices in (("a", (1, 0)), ("a", (2,)), ("b", (0,)))
    ]


def search(speeds, *, rows=1000, memory=None, limit=None):
    def measure(size):
        if size not in speeds:
            return None
        return Trial(size=size, tokens_per_second=speeds[size], bytes_in_use=(memory or {}).get(size, 0))

    size, trials = choose_batch_size(measure, most_rows=rows, most_bytes=limit)
    return size, [trial.size for trial in trials]


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ({4: 10, 8: 18, 16: 30, 32: 32}, (16, [4, 8, 16, 32])),
        ({4: 10, 8: 10.9}, (4, [4, 8])),
        ({4: 10, 8: 20}, (8, [4, 8])),
        ({}, (1, [])),
        ({4 * 2**power: 2**power for power in range(9)}, (256, [4, 8, 16, 32, 64, 128, 256])),
    ],
)
def test_the_size_grows_while_that_pays(speeds, expected):
    assert search(speeds) == expected


def test_the_size_stays_below_the_number_of_rows():
    assert search({size: size for size in range(1, 300)}, rows=9) == (8, [4, 8])
    assert search({size: size for size in range(1, 300)}, rows=3) == (3, [3])


def test_the_size_stops_before_memory_runs_out():
    speeds = {4: 10, 8: 20, 16: 40, 32: 80}
    assert search(speeds, memory={4: 100, 8: 140, 16: 220, 32: 380}, limit=300) == (16, [4, 8, 16])
