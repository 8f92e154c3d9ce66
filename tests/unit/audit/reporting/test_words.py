from __future__ import annotations

import pytest

from steerguard.audit.reporting.words import counts_in_words, duration, interval, length, minute, percent


def test_counts_stand_in_one_line():
    assert counts_in_words({"generate": 1200, "check": 3}) == "1,200 generate, 3 check"
    assert counts_in_words({}) == ""


def test_a_share_has_its_interval_and_its_base():
    share = {"count": 2, "of": 5000, "share": 0.4, "low": 0.1, "high": 0.76912}
    assert interval(share) == "95\u00a0% interval 10.00\u00a0% to 76.91\u00a0%, 2 of 5,000"
    assert percent(1.0) == "100.00\u00a0%"


def test_a_time_is_given_to_the_minute():
    assert minute("2026-11-22T07:15:32.671293Z") == "2026-11-22 07:15"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(60, "minute"), (900, "15 minutes"), (3600, "hour"), (86_400, "day"), (7 * 86_400, "7 days"), (59, "59 seconds")],
)
def test_the_length_of_a_span_is_a_whole_number_of_its_largest_unit(seconds, expected):
    assert length(seconds) == expected


@pytest.mark.parametrize(
    ("microseconds", "expected"),
    [
        (0, "0 µs"),
        (999, "999 µs"),
        (1500, "1.5 ms"),
        (2_000_000, "2 s"),
        (90e6, "1.5 min"),
        (3600e6, "1 h"),
        (36 * 3600e6, "1.5 days"),
    ],
)
def test_a_duration_has_the_unit_that_suits_it(microseconds, expected):
    assert duration(microseconds) == expected
