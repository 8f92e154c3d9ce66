from __future__ import annotations

import json

import pytest
from jsonschema import validate
from tests.registry_documents import DIGEST, NOW_TEXT, PUBLISHER, manifest

from steerguard.artifacts.paths import check_path
from steerguard.artifacts.release import is_release, parse_release, release_path, release_statement
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.registry.schemas import document_schema
from steerguard.signing.dsse import sign, verified_payload
from steerguard.signing.statement import STATEMENT
from steerguard.version import __version__


def statement():
    return release_statement(manifest(), DIGEST, "acme", NOW_TEXT)


def edited(edit):
    data = json.loads(statement())
    edit(data)
    return canonical_bytes(data)


def test_a_release_says_who_publishes_which_digest():
    release = parse_release(statement(), where="r")
    assert release.digest == DIGEST
    assert release.subject[0].name == "refusal/tiny@1.2.0"
    assert release.predicate.publisher == "acme"
    assert release.predicate.created == NOW_TEXT
    assert release.predicate.sdk == __version__


def test_a_release_is_an_in_toto_statement():
    data = json.loads(statement())
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["predicateType"] == "urn:steerguard:release:v1"
    assert data["subject"] == [{"name": "refusal/tiny@1.2.0", "digest": {"sha256": DIGEST.removeprefix("sha256:")}}]
    validate(data, document_schema("release.v1"))


def test_a_signed_release_comes_back_from_its_envelope():
    envelope = sign(statement(), STATEMENT, [PUBLISHER])
    payload, signers = verified_payload(envelope, STATEMENT, [PUBLISHER.public], where="r")
    assert parse_release(payload, where="r").digest == DIGEST
    assert signers == (PUBLISHER.public,)


def test_the_file_is_named_after_the_key_and_allowed_in_an_artifact():
    path = release_path(PUBLISHER.public.id)
    assert path == f"attestations/release.{PUBLISHER.public.id}.json"
    check_path(path)
    assert is_release(path)
    assert not is_release("attestations/vetting.x.json")
    assert not is_release("manifest.json")


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data.pop("_type"), "_type"),
        (lambda data: data.update(_type="https://in-toto.io/Statement/v0.1"), "_type"),
        (lambda data: data.update(predicateType="urn:steerguard:vetting:v1"), "predicateType"),
        (lambda data: data.update(subject=[]), "subject"),
        (lambda data: data["subject"].append(data["subject"][0]), "one artifact"),
        (lambda data: data["subject"][0]["digest"].update(sha256="x"), r"subject\[0\]\.digest\.sha256"),
        (lambda data: data["subject"][0]["digest"].update(sha1="x"), r"subject\[0\]\.digest\.sha1"),
        (lambda data: data["predicate"].update(created="2026-02-30T00:00:00Z"), r"predicate\.created"),
        (lambda data: data["predicate"].update(created="٢٠٢٦-11-22T00:00:00Z"), r"predicate\.created"),
        (lambda data: data["predicate"].update(publisher=""), r"predicate\.publisher"),
        (lambda data: data["predicate"].update(extra=1), r"predicate\.extra"),
        (lambda data: data.update(extra=1), "extra"),
    ],
)
def test_another_statement_is_refused_by_field(edit, named):
    with pytest.raises(ArtifactFormatError, match=named):
        parse_release(edited(edit), where="r")


@pytest.mark.parametrize(("digest", "publisher", "created"), [("sha256:x", "a", NOW_TEXT), (DIGEST, "a", "today")])
def test_a_wrong_release_is_not_written(digest, publisher, created):
    with pytest.raises(ArtifactFormatError):
        release_statement(manifest(), digest, publisher, created)
