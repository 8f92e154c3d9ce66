from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from tests.registry_documents import EXPIRES, ISSUED

from steerguard.artifacts.times import compact_time, parse_time, time_text
from steerguard.errors import RollbackError, StaleError
from steerguard.registry.freshness import CLOCK_SKEW, check_fresh, check_successor

SECOND = timedelta(seconds=1)


def successor(new, seen, new_sha256="a", seen_sha256="a"):
    check_successor(new, seen, new_sha256=new_sha256, seen_sha256=seen_sha256, where="hf://acme index")


def test_a_first_a_later_and_the_same_document_are_accepted():
    successor(1, None, seen_sha256=None)
    successor(5, 4, new_sha256="b")
    successor(4, 4)


def test_an_older_document_is_a_rollback():
    with pytest.raises(RollbackError, match="older state") as caught:
        successor(3, 4)
    assert caught.value.expected == "sequence 4 or higher"
    assert caught.value.where == "hf://acme index"


def test_another_document_of_the_same_number_is_a_rollback():
    with pytest.raises(RollbackError, match="two different states"):
        successor(4, 4, new_sha256="b")
    with pytest.raises(RollbackError):
        successor(4, 4, seen_sha256=None)


def fresh(now, max_age=None):
    check_fresh(ISSUED, EXPIRES, now, where="hf://acme index", max_age=max_age)


def test_a_document_counts_from_its_issue_up_to_its_expiry():
    for now in (ISSUED, EXPIRES - SECOND, ISSUED - CLOCK_SKEW):
        fresh(now)


@pytest.mark.parametrize(
    ("now", "max_age", "named"),
    [
        (EXPIRES, None, "expired"),
        (EXPIRES + timedelta(days=400), None, "expired"),
        (ISSUED - CLOCK_SKEW - SECOND, None, "future"),
        (ISSUED + timedelta(days=1, seconds=1), timedelta(days=1), "older than"),
    ],
)
def test_a_document_that_is_held_back_or_comes_from_the_future_is_stale(now, max_age, named):
    with pytest.raises(StaleError, match=named):
        fresh(now, max_age)


def test_the_greatest_age_is_accepted():
    fresh(ISSUED + timedelta(days=1), timedelta(days=1))


def test_times_have_one_form_in_utc():
    moment = datetime(2026, 1, 31, 13, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=1)))
    assert time_text(moment) == "2026-01-31T12:00:00Z"
    assert parse_time("2026-01-31T12:00:00Z") == moment.replace(microsecond=0)
    assert compact_time("2026-01-31T12:00:00Z") == "20260131T120000Z"
