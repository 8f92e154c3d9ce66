"""Decisions over time in spans that grow."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from steerguard.audit.reporting.volume import MAX_SPANS, WIDTHS, Volume

TIMES = st.lists(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), min_size=1, max_size=40)  # noqa: DTZ001 - naive, UTC is added


def stamp(time):
    return time.replace(tzinfo=UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z").rjust(27, "0")


@given(TIMES)
def test_every_decision_is_in_one_span(times):
    volume = Volume()
    for time in times:
        volume.add(stamp(time), "refuse", "allow")
    rows = volume.rows()
    assert len(rows) <= MAX_SPANS
    assert sum(row["applied"]["allow"] for row in rows) == len(times)
    assert sum(row["intended"]["refuse"] for row in rows) == len(times)
    assert sum(sum(row["applied"].values()) for row in rows) == len(times)


def test_spans_grow_with_the_period_and_empty_ones_are_there():
    volume, begin = Volume(), datetime(2026, 3, 1, tzinfo=UTC)
    volume.add(stamp(begin), "allow", "allow")
    assert volume.seconds == 60
    volume.add(stamp(begin + timedelta(days=40)), "allow", "allow")
    assert volume.seconds == 86_400
    rows = volume.rows()
    assert len(rows) == 41
    assert [row["start"] for row in rows[:2]] == ["2026-03-01T00:00Z", "2026-03-02T00:00Z"]
    assert sum(rows[1]["applied"].values()) == 0


def test_every_width_is_a_multiple_of_the_one_before():
    assert all(longer % shorter == 0 for shorter, longer in itertools.pairwise(WIDTHS))
