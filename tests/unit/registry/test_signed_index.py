from __future__ import annotations

import json

import pytest
from jsonschema import validate
from tests.registry_documents import (
    COMMIT,
    DIGEST,
    EXPIRES,
    ISSUED,
    PUBLISHER,
    REGISTRY,
    VETTER,
    hub_entry,
    signed_index,
)

from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, SignatureError
from steerguard.registry.revocations import REVOCATIONS_TYPE
from steerguard.registry.schemas import document_schema
from steerguard.registry.signed_index import (
    SIGNED_INDEX_TYPE,
    parse_signed_index,
    signed_index_bytes,
    signed_index_of,
    verified_index,
)
from steerguard.signing.dsse import sign

KEYS = [PUBLISHER.public]


def edited(edit):
    data = json.loads(signed_index_bytes(signed_index()))
    edit(data)
    return canonical_bytes(data)


def test_an_index_survives_its_bytes_and_sorts_versions_as_numbers():
    index = signed_index()
    assert [entry.version for entry in index.artifacts] == ["1.9.0", "1.10.0"]
    assert parse_signed_index(signed_index_bytes(index), where="i") == index
    assert (index.issued_at, index.expires_at) == (ISSUED, EXPIRES)
    validate(json.loads(signed_index_bytes(index)), document_schema("signed-index.v1alpha1"))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data["artifacts"].reverse(), "not in order"),
        (lambda data: data["artifacts"].append(data["artifacts"][-1]), "not in order"),
        (lambda data: data["artifacts"][0].update(repo="evil/refusal-tiny"), "organisation"),
        (lambda data: data["artifacts"][0].update(repo="acme/a/b"), r"artifacts\[0\]\.repo"),
        (lambda data: data["artifacts"][0].update(repo="../x"), r"artifacts\[0\]\.repo"),
        (lambda data: data["artifacts"][0].update(commit="main"), r"artifacts\[0\]\.commit"),
        (lambda data: data["artifacts"][0].update(commit=COMMIT[:39]), r"artifacts\[0\]\.commit"),
        (lambda data: data["artifacts"][0].update(digest="0" * 64), r"artifacts\[0\]\.digest"),
        (lambda data: data["artifacts"][0].update(base_model=""), r"artifacts\[0\]\.base_model"),
        (lambda data: data["artifacts"][0].pop("type"), r"artifacts\[0\]\.type"),
        (lambda data: data.update(sequence=0), "sequence"),
        (lambda data: data.update(sequence="4"), "sequence"),
        (lambda data: data.update(sequence=True), "sequence"),
        (lambda data: data.update(expires=data["issued"]), "expires"),
        (lambda data: data.update(expires="2026-13-01T00:00:00Z"), "expires"),
        (lambda data: data.update(registry="embedded"), "registry"),
        (lambda data: data.update(registry="hf://acme/x"), "registry"),
        (lambda data: data.update(kind="RegistryIndex"), "kind"),
        (lambda data: data.update(extra=1), "extra"),
    ],
)
def test_a_wrong_index_is_refused_by_field(edit, named):
    with pytest.raises(ArtifactFormatError, match=named):
        parse_signed_index(edited(edit), where="i")


def test_an_index_that_lists_an_artifact_twice_is_not_written():
    with pytest.raises(ArtifactFormatError, match="not in order"):
        signed_index(hub_entry(), hub_entry(digest=DIGEST))


def test_a_verified_index_names_its_signers():
    index = signed_index()
    envelope = sign(signed_index_bytes(index), SIGNED_INDEX_TYPE, [PUBLISHER, VETTER])
    assert verified_index(envelope, KEYS, registry=REGISTRY, where="i") == (index, (PUBLISHER.public,))


def test_the_index_of_another_registry_is_refused():
    other = signed_index_of("hf://other", [], sequence=9, issued=ISSUED, expires=EXPIRES)
    envelope = sign(signed_index_bytes(other), SIGNED_INDEX_TYPE, [PUBLISHER])
    with pytest.raises(SignatureError, match="another registry"):
        verified_index(envelope, KEYS, registry=REGISTRY, where="i")


def test_other_signatures_and_other_kinds_of_document_are_refused():
    payload = signed_index_bytes(signed_index())
    for envelope in (sign(payload, SIGNED_INDEX_TYPE, [VETTER]), sign(payload, REVOCATIONS_TYPE, [PUBLISHER])):
        with pytest.raises(SignatureError):
            verified_index(envelope, KEYS, registry=REGISTRY, where="i")
