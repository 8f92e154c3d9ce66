from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

import jsonschema
import pytest
from tests.audit_events import LOG, SAMPLES, bypass, refusal
from tests.chained_logs import record

from steerguard.audit.reading.cloudevents import cloud_event
from steerguard.audit.records.schema import SCHEMA_ID

# CloudEvents 1.0.2, sections "required attributes" and "optional attributes", and section 3 of its JSON event format.
TEXT = {"type": "string", "minLength": 1}
RULES = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": TEXT,
        "source": TEXT,
        "type": TEXT,
        "subject": TEXT,
        "datacontenttype": {"const": "application/json"},
        "dataschema": TEXT,
        "time": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        "data": {},
    },
    # Names of attributes are lower-case letters and digits; extensions would hold texts, whole numbers or truth values.
    "patternProperties": {"^[a-z0-9]+$": {}},
    "additionalProperties": False,
}


@pytest.mark.parametrize("kind", sorted(SAMPLES))
def test_every_type_of_record_becomes_a_valid_event(kind):
    event = cloud_event(record(SAMPLES[kind]))
    jsonschema.validate(event, RULES)
    assert urlsplit(event["source"]).scheme == urlsplit(event["dataschema"]).scheme == "urn"
    assert re.fullmatch(r"[!-~]+", event["source"] + event["dataschema"])
    assert event["type"] == f"dev.steerguard.{kind}.v1"
    assert json.loads(json.dumps(event)) == event


def test_an_event_names_its_record_and_holds_it_whole():
    found = record(refusal(req="r1"), seq=7)
    event = cloud_event({**found, "tenant": "acme"})
    assert event == {
        "specversion": "1.0",
        "id": f"{LOG}/7",
        "source": f"urn:steerguard:audit:{LOG}",
        "type": "dev.steerguard.guard.decision.v1",
        "time": "2026-11-22T07:15:07.000000Z",
        "subject": "r1",
        "datacontenttype": "application/json",
        "dataschema": SCHEMA_ID,
        "data": {**found, "tenant": "acme"},
    }


@pytest.mark.parametrize("body", [bypass(), SAMPLES["policy.load"]])
def test_a_record_without_a_request_has_no_subject(body):
    assert "subject" not in cloud_event(record(body))
