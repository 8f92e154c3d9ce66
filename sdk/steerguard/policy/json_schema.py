"""The JSON Schema of policy documents, generated from the models.

`python -m steerguard.policy.json_schema --write policies/policy.v1alpha1.schema.json` (or `--check`).
The schema describes each field by itself; what must hold between fields is checked by the loader only.
"""

from __future__ import annotations

import json
from typing import Any

from steerguard.policy.document import Policy
from steerguard.policy.generated import keep_in_step

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:steerguard:policy:v1alpha1"
FILE_NAME = "policy.v1alpha1.schema.json"


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a policy document."""
    schema = without_null(Policy.model_json_schema(by_alias=True))
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **schema}


def render() -> str:
    """Return the text of the committed schema file."""
    return json.dumps(policy_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def without_null(schema: Any) -> Any:
    """Return the schema without `null`: a field is given a value or left out."""
    if isinstance(schema, list):
        return [without_null(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    clean = {key: without_null(value) for key, value in schema.items() if not (key == "default" and value is None)}
    alternatives = clean.get("anyOf")
    if isinstance(alternatives, list):
        kept = [entry for entry in alternatives if entry != {"type": "null"}]
        if len(kept) == 1:
            del clean["anyOf"]
            clean = {**kept[0], **clean}
    return clean


if __name__ == "__main__":
    keep_in_step(render, command="steerguard.policy.json_schema")
