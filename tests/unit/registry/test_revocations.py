from __future__ import annotations

import json

import pytest
from jsonschema import validate
from tests.registry_documents import (
    DIGEST,
    ISSUED,
    OTHER_DIGEST,
    PUBLISHER,
    REGISTRY,
    VETTER,
    hub_entry,
    revocations,
    revoked,
)

from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError, SignatureError
from steerguard.registry.revocations import (
    REVOCATIONS_TYPE,
    parse_revocations,
    revocations_bytes,
    verified_revocations,
)
from steerguard.registry.schemas import document_schema
from steerguard.signing.dsse import sign


def edited(edit):
    data = json.loads(revocations_bytes(revocations()))
    edit(data)
    return canonical_bytes(data)


@pytest.mark.parametrize("registry", ["embedded", "hf://acme", "file:///srv/registry%20two"])
def test_a_list_survives_its_bytes(registry):
    document = revocations(registry=registry)
    assert parse_revocations(revocations_bytes(document), where="r") == document
    assert document.issued_at == ISSUED
    validate(json.loads(revocations_bytes(document)), document_schema("revocations.v1alpha1"))


@pytest.mark.parametrize(
    ("given", "covered"),
    [
        ({"digest": DIGEST}, True),
        ({"digest": OTHER_DIGEST}, False),
        ({"family": "refusal"}, True),
        ({"family": "other"}, False),
        ({"family": "refusal", "variant": "tiny"}, True),
        ({"family": "refusal", "variant": "large"}, False),
        ({"family": "refusal", "range": "^1"}, True),
        ({"family": "refusal", "range": ">=1.3"}, False),
        ({"family": "refusal", "variant": "tiny", "range": "1.2.0"}, True),
        ({"family": "refusal", "variant": "large", "range": "1.2.0"}, False),
    ],
)
def test_artifacts_are_revoked_by_digest_or_by_name(given, covered):
    entry = revoked(**given)
    assert revocations(entry).revoked_as(hub_entry("1.2.0")) == (entry if covered else None)


def test_a_refusal_comes_before_a_warning():
    warning, refusal = revoked(action="warn"), revoked(family="refusal")
    for listed in ((warning, refusal), (refusal, warning)):
        assert revocations(*listed).revoked_as(hub_entry()) == refusal
    assert revocations(warning).revoked_as(hub_entry()) == warning


def test_a_revoked_key_is_found_by_its_id():
    document = revocations()
    assert document.revoked_key(VETTER.public.id).reason == "leaked_key"
    assert document.revoked_key(PUBLISHER.public.id) is None


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data["artifacts"][0].update(family="refusal"), r"artifacts\[0\]"),
        (lambda data: data["artifacts"][0].update(digest=None), r"artifacts\[0\]"),
        (lambda data: data["artifacts"][0].update(range="^1"), r"artifacts\[0\]"),
        (lambda data: data["artifacts"][0].update(variant="tiny"), r"artifacts\[0\]"),
        (lambda data: data["artifacts"][1].update(range="not a range"), r"artifacts\[1\]\.range"),
        (lambda data: data["artifacts"][1].update(range=""), r"artifacts\[1\]\.range"),
        (lambda data: data["artifacts"][0].update(action="ignore"), r"artifacts\[0\]\.action"),
        (lambda data: data["artifacts"][0].update(reason="why not"), r"artifacts\[0\]\.reason"),
        (lambda data: data["artifacts"][0].pop("since"), r"artifacts\[0\]\.since"),
        (lambda data: data["keys"][0].update(key_id="x"), r"keys\[0\]\.key_id"),
        (lambda data: data.update(registry="file://relative"), "registry"),
        (lambda data: data.update(registry="acme"), "registry"),
        (lambda data: data.update(sequence=-1), "sequence"),
        (lambda data: data.update(expires=data["issued"]), "expires"),
        (lambda data: data.update(kind="SignedIndex"), "kind"),
        (lambda data: data.pop("keys"), "keys"),
        (lambda data: data["artifacts"][0].pop("variant"), "leaves out fields"),
    ],
)
def test_a_wrong_list_is_refused_by_field(edit, named):
    with pytest.raises(ArtifactFormatError, match=named):
        parse_revocations(edited(edit), where="r")


def test_a_verified_list_is_of_its_registry_and_by_its_keys():
    document = revocations()
    envelope = sign(revocations_bytes(document), REVOCATIONS_TYPE, [PUBLISHER])
    assert verified_revocations(envelope, [PUBLISHER.public], registry=REGISTRY, where="r")[0] == document
    with pytest.raises(SignatureError, match="another registry"):
        verified_revocations(envelope, [PUBLISHER.public], registry="hf://other", where="r")
    with pytest.raises(SignatureError, match="not signed"):
        verified_revocations(envelope, [VETTER.public], registry=REGISTRY, where="r")
