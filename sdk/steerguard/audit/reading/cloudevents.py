"""Records as CloudEvents 1.0 in the structured JSON form (CloudEvents specification 1.0.2 and its JSON event format)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from steerguard.audit.records.schema import SCHEMA_ID

SOURCE_PREFIX: Final = "urn:steerguard:audit:"
"""The source of an event is this and the log id."""
TYPE_PREFIX: Final = "dev.steerguard."
TYPE_SUFFIX: Final = ".v1"
"""The type of an event is the prefix, the event type and this: `dev.steerguard.guard.decision.v1`."""


def cloud_event(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the event of a record that fits the schema of its type.

    `id` is `<log>/<seq>`, unique within the source and of the same record always the same. `subject` is the guard's id of
    the request, where the record has one.
    """
    event = {
        "specversion": "1.0",
        "id": f"{record['log']}/{record['seq']}",
        "source": f"{SOURCE_PREFIX}{record['log']}",
        "type": f"{TYPE_PREFIX}{record['type']}{TYPE_SUFFIX}",
        "time": record["t"],
        "datacontenttype": "application/json",
        "dataschema": SCHEMA_ID,
        "data": dict(record),
    }
    request = record.get("req")
    return event if request is None else {**event, "subject": request}
