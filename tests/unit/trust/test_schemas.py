from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.signed_artifacts import HUB, trust, trust_text

from steerguard.policy.generated import keep_in_step
from steerguard.policy.yaml_subset import read_document
from steerguard.trust.schemas import FILE_NAME, render, trust_schema

COMMITTED = Path(__file__).parents[3] / "registry" / "schemas" / FILE_NAME


def test_the_committed_schema_is_the_generated_one():
    keep_in_step(render, ["--check", str(COMMITTED)], command="steerguard.trust.schemas")


def test_every_object_is_closed_and_every_field_described():
    schema = trust_schema()
    Draft202012Validator.check_schema(schema)
    for part in (schema, *schema["$defs"].values()):
        assert part["additionalProperties"] is False
        assert part["description"]
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_what_the_loader_reads_satisfies_the_schema():
    validator = Draft202012Validator(trust_schema())
    validator.validate(read_document(trust_text(signed=[HUB]), file="trust.yaml").data)
    validator.validate(json.loads(trust().model_dump_json(by_alias=True, exclude_none=True)))


@pytest.mark.parametrize("changed", [{"embedded": "always"}, {"revocation": {"max_age": "7"}}, {"other": 1}])
def test_what_the_loader_refuses_breaks_the_schema(changed):
    data = read_document(trust_text(), file="trust.yaml").data | changed
    assert list(Draft202012Validator(trust_schema()).iter_errors(data))
