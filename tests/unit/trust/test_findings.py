"""What lists say about an artifact: by digest, by name and range, by key."""

from __future__ import annotations

import pytest
from tests.revocations import KEY, OTHER_KEY, artifact, listed, revokes, revokes_key

from steerguard.trust.findings import revoked_in, strictest


def found(one, *lists):
    return revoked_in({each.registry: each for each in lists}, one)


@pytest.mark.parametrize(
    ("names", "hit"),
    [
        ({"digest": f"sha256:{'a' * 64}"}, True),
        ({"digest": f"sha256:{'b' * 64}"}, False),
        ({"family": "steer"}, True),
        ({"family": "other"}, False),
        ({"family": "steer", "variant": "tiny"}, True),
        ({"family": "steer", "variant": "large"}, False),
        ({"family": "steer", "range": "<1.3.0"}, True),
        ({"family": "steer", "range": ">=1.3.0"}, False),
    ],
)
def test_an_artifact_is_found_by_digest_or_by_name_and_range(names, hit):
    finding = found(artifact(), listed(revokes(**names), sequence=4))
    assert (finding is not None) == hit
    if finding is not None:
        assert (finding.state, finding.action, finding.reason, finding.sequence) == ("revoked", "refuse", "unsafe", 4)
        assert (finding.registry, finding.allowed, finding.refuses) == ("hf://acme", None, True)


def test_every_list_counts_and_one_that_refuses_comes_before_one_that_warns():
    warns = listed(revokes(action="warn", reason="superseded"), registry="hf://aaa")
    refuses = listed(revokes(), registry="hf://zzz")
    assert found(artifact(), warns).action == "warn"
    assert found(artifact(), warns, refuses).registry == "hf://zzz"
    assert found(artifact(), listed(registry="hf://aaa"), warns).refuses is False


@pytest.mark.parametrize(
    ("signed_by", "needed", "keys", "hit"),
    [
        ((KEY,), 1, (KEY,), True),
        ((KEY, OTHER_KEY), 1, (KEY,), False),
        ((KEY, OTHER_KEY), 2, (KEY,), True),
        ((KEY, OTHER_KEY), 1, (KEY, OTHER_KEY), True),
        ((OTHER_KEY,), 1, (KEY,), False),
        ((), 1, (KEY,), False),
    ],
    ids=["only key", "one of two", "one of two needed", "both", "another key", "unsigned"],
)
def test_an_artifact_is_revoked_once_too_few_of_its_keys_remain(signed_by, needed, keys, hit):
    finding = found(artifact(signed_by, needed), listed(keys=tuple(revokes_key(key) for key in keys)))
    assert (finding is not None) == hit
    if finding is not None:
        assert (finding.action, finding.reason) == ("refuse", "leaked_key")


def test_keys_that_two_registries_revoke_count_together():
    one = listed(keys=(revokes_key(KEY),), registry="hf://aaa")
    other = listed(keys=(revokes_key(OTHER_KEY),), registry="hf://bbb")
    signed = artifact((KEY, OTHER_KEY))
    assert found(signed, one) is None
    assert found(signed, one, other).refuses


def test_a_revoked_key_comes_before_a_warning_about_the_artifact():
    both = listed(revokes(action="warn", reason="superseded"), keys=(revokes_key(),))
    assert found(artifact((KEY,)), both).reason == "leaked_key"


def test_of_no_finding_there_is_no_strictest():
    assert strictest([]) is None
    assert strictest([None, None]) is None
