"""Which list follows which, and when a list is too old to rely on."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.revocations import NOW, REGISTRY, artifact, listed, revokes

from steerguard.errors import RollbackError, SignatureError
from steerguard.trust.newest_lists import DatedList, NewestLists

WEEK = timedelta(days=7)


def known(*lists, required=(REGISTRY,)):
    return NewestLists.of(required, {one.registry: DatedList.of(one) for one in lists})


def test_a_higher_sequence_is_accepted_in_both_directions():
    first = known(listed(sequence=1))
    second = first.followed_by(REGISTRY, listed(revokes(), sequence=2))
    assert first.revoked(artifact()) is None
    assert second.revoked(artifact()).refuses
    assert second.followed_by(REGISTRY, listed(sequence=3)).revoked(artifact()) is None


def test_an_older_list_and_another_one_of_the_same_number_are_refused():
    lists = known(listed(revokes(), sequence=5))
    for other in (listed(sequence=4), listed(sequence=5)):
        with pytest.raises(RollbackError):
            lists.followed_by(REGISTRY, other)
    assert lists.revoked(artifact()).sequence == 5


def test_the_same_list_again_keeps_what_was_worked_out():
    lists = known(listed(revokes(), sequence=5))
    finding = lists.revoked(artifact())
    after = lists.followed_by(REGISTRY, listed(revokes(), sequence=5))
    assert after is lists
    assert after.revoked(artifact()) is finding


def test_what_was_asked_before_is_worked_out_when_a_list_arrives(monkeypatch):
    lists = known(listed(sequence=1))
    lists.revoked(artifact())
    after = lists.followed_by(REGISTRY, listed(revokes(), sequence=2))
    monkeypatch.setattr("steerguard.trust.newest_lists.revoked_in", None)
    assert after.revoked(artifact()).refuses


def test_the_list_of_another_registry_is_not_accepted_in_its_place():
    with pytest.raises(SignatureError):
        known(listed(revokes())).followed_by(REGISTRY, listed(sequence=9, registry="hf://evil"))


def test_a_registry_without_a_list_is_stale_until_it_has_one():
    lists = known()
    assert lists.stale(NOW, WEEK) == REGISTRY
    assert lists.followed_by(REGISTRY, listed()).stale(NOW, WEEK) is None


@pytest.mark.parametrize(
    ("age", "max_age", "stale"),
    [
        (timedelta(0), WEEK, False),
        (WEEK, WEEK, False),
        (WEEK + timedelta(seconds=1), WEEK, True),
        (timedelta(days=29), None, False),
        (timedelta(days=30), None, True),
        (-timedelta(minutes=10), WEEK, False),
        (-timedelta(minutes=11), WEEK, True),
    ],
    ids=["new", "at the limit", "over the limit", "no limit", "expired", "a little ahead", "from the future"],
)
def test_age_expiry_and_a_date_in_the_future_make_a_list_stale(age, max_age, stale):
    assert known(listed()).stale(NOW + age, max_age) == (REGISTRY if stale else None)


def test_a_registry_that_was_not_required_counts_once_it_has_a_list():
    lists = known(listed(), listed(registry="hf://other", issued=NOW - timedelta(days=20)), required=())
    assert lists.registries == (REGISTRY, "hf://other")
    assert lists.stale(NOW, WEEK) == "hf://other"
