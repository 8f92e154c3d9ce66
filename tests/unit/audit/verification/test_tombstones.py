"""Which records of pruning count, whoever put them there and however many there are."""

from __future__ import annotations

import pytest

from steerguard.audit.verification.report import PrunedRange
from steerguard.audit.verification.tombstones import Tombstone, Tombstones

LOG = "20261123T080000Z-0000000000000000"


def tombstone(first, last, *, anchored=True, by="20261123T080001Z-0000000000000001"):
    pruned = PrunedRange(
        log=LOG,
        segments=(first, last),
        records=(10 * first, 10 * last + 9),
        bytes=1,
        first_t="2026-01-01T00:00:00.000000Z",
        last_t="2026-01-02T00:00:00.000000Z",
        whole=False,
        by_log=by,
        by_seq=1,
        anchored=anchored,
    )
    return Tombstone(pruned=pruned, root=bytes(32))


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_that_reach_as_far_the_one_under_a_checkpoint_counts(order):
    sound, forged = tombstone(0, 2), tombstone(0, 2, anchored=False, by="20261123T080002Z-0000000000000002")
    assert (found := Tombstones()).add([sound, forged][::order])
    assert found.row(LOG) == (sound,)


def test_the_one_that_reaches_further_counts_and_one_with_a_gap_before_it_does_not():
    found = Tombstones()
    found.add([tombstone(0, 1), tombstone(0, 3), tombstone(2, 2), tombstone(4, 4), tombstone(6, 7)])
    assert [one.pruned.segments for one in found.row(LOG)] == [(0, 3), (4, 4)]
    assert not found.add([tombstone(4, 4)])


def test_a_row_of_very_many_is_put_together_in_one_pass():
    # With work that grows with the square of their number this takes an hour.
    count = 50_000
    found = Tombstones()
    assert found.add(tombstone(number, number) for number in reversed(range(count)))
    assert len(found.row(LOG)) == count
