from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

from steerguard.content import policies_directory
from steerguard.policy.generated import keep_in_step
from steerguard.policy.json_schema import DIALECT, FILE_NAME, policy_schema, render


def test_committed_schema_is_up_to_date() -> None:
    keep_in_step(render, ["--check", str(policies_directory() / FILE_NAME)], command="steerguard.policy.json_schema")


def test_schema_is_a_valid_2020_12_schema() -> None:
    schema = policy_schema()
    assert schema["$schema"] == DIALECT
    Draft202012Validator.check_schema(schema)


def test_every_object_is_closed_and_every_field_described() -> None:
    schema = policy_schema()
    parts: list[dict[str, Any]] = [schema, *schema["$defs"].values()]
    for part in parts:
        assert part["additionalProperties"] is False
        assert part["description"]
        for name, field in part["properties"].items():
            assert field.get("description"), name


def test_no_field_may_be_null() -> None:
    assert "null" not in render()
