from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from jsonschema import validate
from tests.registry_documents import DIGEST, LATER_TEXT, NOW_TEXT, OTHER_HEX, VETTER, manifest, vetting_record

from steerguard.artifacts.paths import check_path
from steerguard.artifacts.vetting import is_vetting, parse_vetting, vetting_path, vetting_statement
from steerguard.canonical import canonical_bytes
from steerguard.errors import ArtifactFormatError
from steerguard.registry.schemas import document_schema


def statement(**changes):
    return vetting_statement(manifest(), DIGEST, vetting_record(**changes))


def edited(edit):
    data = json.loads(statement())
    edit(data)
    return canonical_bytes(data)


def test_a_record_survives_its_bytes():
    found = parse_vetting(statement(), where="v")
    assert found.predicate == vetting_record()
    assert found.digest == DIGEST


def test_the_subjects_are_the_manifest_and_every_weights_file():
    data = json.loads(statement())
    assert [(one["name"], one["digest"]["sha256"]) for one in data["subject"]] == [
        ("refusal/tiny@1.2.0", DIGEST.removeprefix("sha256:")),
        ("weights/tensors.safetensors", OTHER_HEX),
    ]
    validate(data, document_schema("vetting.v1"))


def test_the_file_is_named_after_key_and_time_and_allowed_in_an_artifact():
    path = vetting_path(VETTER.public.id, NOW_TEXT)
    assert path == f"attestations/vetting.{VETTER.public.id}.20261122T000000Z.json"
    check_path(path)
    assert is_vetting(path)
    assert not is_vetting("attestations/release.x.json")


def test_a_record_counts_until_it_expires():
    record = vetting_record()
    assert not record.expired(datetime(2027, 11, 21, 23, 59, 59, tzinfo=UTC))
    assert record.expired(datetime(2027, 11, 22, tzinfo=UTC))


def _result(**changes):
    return lambda data: data["predicate"]["results"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda data: data["predicate"].update(verdict="fail"), r"predicate\.verdict"),
        (_result(passed=False), r"predicate\.verdict"),
        (lambda data: data["predicate"]["static_checks"][0].update(passed=False), r"predicate\.verdict"),
        (_result(bar=None), r"results\[0\]\.passed"),
        (_result(passed=None), r"results\[0\]\.passed"),
        (_result(low=None), r"results\[0\]\.low"),
        (_result(low="0.2"), r"results\[0\]\.low"),
        (_result(value="NaN"), r"results\[0\]\.value"),
        (_result(n=0), r"results\[0\]\.n"),
        (lambda data: data["predicate"].update(level=4), r"predicate\.level"),
        (lambda data: data["predicate"].update(level=True), r"predicate\.level"),
        (lambda data: data["predicate"].update(static_checks=[]), r"predicate\.level"),
        (lambda data: data["predicate"]["environment"].update(model=None), r"predicate\.level"),
        (lambda data: data["predicate"].update(suite=None), r"predicate\.level"),
        (lambda data: data["predicate"]["results"].pop(0), r"predicate\.level"),
        (lambda data: data["predicate"].update(expires_at=NOW_TEXT), r"predicate\.expires_at"),
        (lambda data: data["predicate"].update(vetted_by="lab"), r"predicate\.vetted_by"),
        (lambda data: data["predicate"].update(vetted_at=LATER_TEXT), r"predicate\.expires_at"),
        (lambda data: data.update(predicateType="urn:steerguard:release:v1"), "predicateType"),
        (lambda data: data["subject"][1].update(name="recipe.yaml"), "subject"),
        (lambda data: data["predicate"].update(extra=1), r"predicate\.extra"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused_by_field(edit, named):
    with pytest.raises(ArtifactFormatError) as caught:
        parse_vetting(edited(edit), where="v")
    assert re.search(named, str(caught.value.where))


def test_low_levels_promise_less():
    record = vetting_record()
    bare = record.environment.model_copy(update={"model": None})
    parse_vetting(statement(level=0, suite=None, results=(), static_checks=(), environment=bare), where="v")
    parse_vetting(statement(level=1, suite=None, results=()), where="v")


def test_a_record_that_failed_is_a_record():
    failed = vetting_record().results[0].model_copy(update={"passed": False, "value": "0.5"})
    found = parse_vetting(statement(results=(failed,), verdict="fail"), where="v")
    assert found.predicate.verdict == "fail"


def test_a_contradiction_is_not_written():
    with pytest.raises(ArtifactFormatError, match="contradicts"):
        statement(verdict="fail")
