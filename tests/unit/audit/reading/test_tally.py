from __future__ import annotations

from steerguard.audit.reading.tally import MAX_NAMES, OTHERS, Tally


def test_names_are_counted_largest_first_and_then_by_name():
    tally = Tally()
    for name in ("b", "a", "c", "c"):
        tally.add(name)
    tally.add("d", 5)
    assert list(tally.counts.items()) == [("d", 5), ("c", 2), ("a", 1), ("b", 1)]
    assert (tally["c"], tally["absent"], tally.total) == (2, 0, 9)


def test_names_beyond_the_limit_are_counted_together():
    tally = Tally()
    for number in range(MAX_NAMES + 7):
        tally.add(str(number))
    tally.add("0")
    assert tally[OTHERS] == 7
    assert tally["0"] == 2
    assert len(tally.counts) == MAX_NAMES + 1
    assert tally.total == MAX_NAMES + 8
