"""The JSON Schema of one line of an audit log, generated from the models of the events.

`python -m steerguard.audit.records.schema --write registry/schemas/audit-record.v1.schema.json` (or `--check`).
The schema describes each record by itself; what must hold between records is checked by verification only.
"""

from __future__ import annotations

import json
from typing import Final

from steerguard.audit.records.events import event_schema
from steerguard.policy.generated import keep_in_step

SCHEMA_ID: Final = "urn:steerguard:audit-record:v1"
FILE_NAME: Final = "audit-record.v1.schema.json"


def render() -> str:
    """Return the text of the committed schema file."""
    return json.dumps({"$id": SCHEMA_ID, **event_schema()}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    keep_in_step(render, command="steerguard.audit.records.schema")
