from __future__ import annotations

import json
import re
from pathlib import Path
from re import _parser

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from tests.audit_events import SAMPLES, bodies
from tests.audit_lines import line_of

from steerguard.audit.records.events import BODIES, RECORDS, event_schema
from steerguard.audit.records.schema import FILE_NAME, render
from steerguard.policy.generated import keep_in_step

COMMITTED = Path(__file__).parents[4] / "registry" / "schemas" / FILE_NAME
VALIDATOR = Draft202012Validator(event_schema())

FREE_TEXT = {
    "ModelReference.name",
    "PolicyReference.name",
    "PolicyReference.version",
    "envelope.request_id",
    "envelope.trace_id",
    "envelope.tenant",
    "guard.bypass.reason",
    "artifact.revoked.allowed",
    "log.prune.allowed",
    "log.hold.reason",
    "content.erased.reason",
    "log.open.sdk",
    "log.open.python",
}
"""Every string that may be a sentence: printable ASCII, bound by its length alone. docs/audit.md says where each comes from."""
WITH_A_PATH = {"artifact.revoked.registry"}
"""Strings as long as a path of the host."""


def test_the_committed_schema_is_the_generated_one():
    keep_in_step(render, ["--check", str(COMMITTED)], command="steerguard.audit.records.schema")


def test_a_schema_that_is_not_up_to_date_is_found(tmp_path):
    old = tmp_path / FILE_NAME
    old.write_text("{}\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        keep_in_step(render, ["--check", str(old)], command="steerguard.audit.records.schema")


def test_every_event_type_has_a_sample():
    assert set(SAMPLES) == set(RECORDS) == {body.event_type for body in BODIES}


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_line_of_every_event_type_satisfies_the_schema_and_its_model(kind):
    record = line_of(SAMPLES[kind])
    VALIDATOR.validate(record)
    RECORDS[kind].model_validate_json(json.dumps(record))


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("changed", [{"prompt": "x"}, {"v": 2}, {"seq": 0.5}, {"log": "log"}, {"type": "log.other"}])
def test_a_line_with_another_key_or_value_breaks_the_schema(kind, changed):
    record = line_of(SAMPLES[kind])
    assert list(VALIDATOR.iter_errors(record | changed))


@settings(max_examples=200, deadline=None)
@given(bodies(RECORDS))
def test_what_the_schema_describes_the_pipeline_takes_and_writes(body):
    VALIDATOR.validate(line_of(body))


def test_every_object_is_closed():
    schema = event_schema()
    Draft202012Validator.check_schema(schema)
    for name, part in schema["$defs"].items():
        assert part["additionalProperties"] is False, name


def strings(node, path):
    """Every schema of a string, with the name of the record and field where it stands."""
    if node.get("type") == "string" or "const" in node or "enum" in node:
        yield path, node
    for name, part in node.get("properties", {}).items():
        yield from strings(part, f"{path}.{name}")
    parts = [*node.get("anyOf", ()), *node.get("prefixItems", ()), *([node["items"]] if "items" in node else [])]
    for part in parts:
        yield from strings(part, path)


def all_strings():
    for name, part in event_schema()["$defs"].items():
        kind = part["properties"].get("type", {}).get("const", name)
        for path, node in strings(part, kind):
            own = path.removeprefix(f"{kind}.")
            yield (f"envelope.{own}" if kind != name and own in {"request_id", "trace_id", "tenant"} else path), node


def longest(node):
    """How long the text may be."""
    return min(node.get("maxLength", float("inf")), _parser.parse(node["pattern"]).getwidth()[1])


def patterned():
    return [(path, node) for path, node in all_strings() if "const" not in node and "enum" not in node]


def test_no_string_is_free_but_those_of_the_closed_list():
    assert {path for path, node in patterned() if re.search(node["pattern"], "a b")} == FREE_TEXT


def test_no_other_string_is_longer_than_a_name_or_a_key():
    assert {path for path, node in patterned() if longest(node) > 182} - FREE_TEXT == WITH_A_PATH
    assert {path for path, node in patterned() if longest(node) > 5000} == set()


def test_every_pattern_covers_the_whole_string():
    for path, node in patterned():
        assert node["pattern"].startswith("^"), path
        assert node["pattern"].endswith("$"), path


def test_every_string_is_printable_ascii():
    for path, node in patterned():
        assert not [c for c in ("\x00", "\x1f", "\x7f", "é", "\u2028") if re.search(node["pattern"], c)], path
