"""The drawings: inside their frame, and sound for one number, equal numbers, and far ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steerguard.audit.reading.quantiles import GREATEST
from steerguard.audit.reporting.charts import (
    WIDTH,
    actions_over_time,
    nice_ticks,
    number,
    scores_against_thresholds,
    short,
    span_name,
)
from steerguard.audit.reporting.histogram import Histogram
from steerguard.audit.reporting.volume import Volume

NUMBERS = st.floats(-GREATEST, GREATEST)


def places(svg, *names):
    return [float(one.get(name)) for one in svg.iter() for name in names if one.get(name) is not None]


def drawn(scores, thresholds):
    histogram = Histogram()
    for score in scores:
        histogram.add(score)
    return scores_against_thresholds(
        {
            "source": "harm",
            "bins": [{"low": repr(low), "high": repr(high), "count": count} for low, high, count in histogram.rows()],
            "thresholds": [{"rule": "r", "bound": "below", "value": repr(one), "fpr": None} for one in thresholds],
        }
    )


@given(st.lists(NUMBERS, min_size=1, max_size=30), st.lists(NUMBERS, max_size=6))
def test_everything_is_drawn_inside_the_frame(scores, thresholds):
    svg = drawn(scores, thresholds)
    height = float(svg.get("viewBox").split()[3])
    assert all(0 <= x <= WIDTH for x in places(svg, "x", "x1", "x2"))
    assert all(0 <= y <= height for y in places(svg, "y", "y1", "y2"))
    marks = [one.text for one in svg.iter() if one.get("class") == "mark"]
    assert marks == [str(index + 1) for index in range(len(thresholds))]


def test_marks_of_near_thresholds_do_not_cover_one_another():
    svg = drawn([-1.0, 0.0, 1.0], [0.5, 0.5, 0.5001, -0.5])
    marks = [(float(one.get("x")), float(one.get("y"))) for one in svg.iter() if one.get("class") == "mark"]
    for index, (x, y) in enumerate(marks):
        assert all(abs(x - other) >= 30 or abs(y - below) >= 20 for other, below in marks[index + 1 :])


def test_bars_are_as_high_as_their_counts():
    volume = Volume()
    for minute, action in ((0, "allow"), (0, "refuse"), (0, "refuse"), (2, "guide")):
        volume.add(f"2026-03-01T08:{minute:02d}:00.000000Z", action, action)
    svg = actions_over_time(volume.rows(), seconds=volume.seconds)
    tall = {one.get("class"): float(one.get("height")) for one in svg.iter("rect")}
    assert tall["a-refuse"] == pytest.approx(2 * tall["a-allow"], abs=0.2)
    assert tall["a-guide"] == tall["a-allow"]
    assert "4 decisions in 3 spans" in svg.get("aria-label")


@example(low=-450359962737050.44, span=0.25, whole=False)
@example(low=-225179981368525.44, span=0.5, whole=False)
@example(low=0.0, span=5e-324, whole=False)
@given(NUMBERS, st.floats(0, 1e6), st.booleans())
def test_ticks_enclose_what_they_are_for(low, span, whole):
    ticks = nice_ticks(low, low + span, whole=whole)
    assert ticks[0] <= low
    assert ticks[-1] >= low + span
    assert 2 <= len(ticks) <= 8
    assert all(before < after for before, after in pairwise(ticks))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (number(0.123456), "0.1235"),
        (number(12345.0), "12,345"),
        (number(1e20), "1e+20"),
        (short(999), "999"),
        (short(1500), "1.5k"),
        (short(2_000_000), "2M"),
        (span_name("2026-03-01T08:15Z", 60), "03-01 08:15"),
        (span_name("2026-03-01T00:00Z", 86_400), "2026-03-01"),
    ],
)
def test_numbers_and_spans_are_short(found, words):
    assert found == words
