from __future__ import annotations

import json

import pytest

from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.registry.index import IndexEntry, index_bytes, index_of, parse_index

DIGEST = "sha256:" + "0" * 64


def entry(version="1.0.0", **changes):
    return IndexEntry(**({"family": "a", "variant": "b", "version": version, "digest": DIGEST} | changes))


def test_an_index_survives_its_bytes_and_sorts_versions_as_numbers():
    index = index_of((entry("1.10.0"), entry("1.9.0"), entry(family="0")))
    assert [one.version for one in index.artifacts] == ["1.0.0", "1.9.0", "1.10.0"]
    assert parse_index(index_bytes(index), where="index.json") == index


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: data["artifacts"].reverse(), "not in order"),
        (lambda data: data["artifacts"].append(data["artifacts"][-1]), "not in order"),
        (lambda data: data["artifacts"][0].update(family="../x"), r"artifacts\[0\]\.family"),
        (lambda data: data["artifacts"][0].update(digest="0" * 64), r"artifacts\[0\]\.digest"),
        (lambda data: data["artifacts"][0].update(path="/etc"), r"artifacts\[0\]\.path"),
        (lambda data: data.update(kind="Policy"), "kind"),
        (lambda data: data.update(extra=1), "extra"),
        (lambda data: data.pop("artifacts"), "artifacts"),
    ],
)
def test_a_wrong_index_is_refused_by_field(change, named):
    data = json.loads(index_bytes(index_of((entry("1.0.0"), entry("2.0.0")))))
    change(data)
    with pytest.raises(ArtifactFormatError, match=named):
        parse_index(canonical_bytes(data), where="index.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"artifacts": []}', b"\xff"])
def test_bytes_that_are_no_canonical_object_are_refused(content):
    with pytest.raises(ArtifactFormatError, match=r"index\.json"):
        parse_index(content, where="index.json")
