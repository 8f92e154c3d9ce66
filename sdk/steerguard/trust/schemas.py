"""The JSON Schema of trust policies, generated from the model.

`python -m steerguard.trust.schemas --write registry/schemas/trust-policy.v1alpha1.schema.json` (or `--check`).
The schema describes each field by itself; what must hold between fields is checked by the loader only.
"""

from __future__ import annotations

import json
from typing import Any, Final

from steerguard.policy.generated import keep_in_step
from steerguard.policy.json_schema import DIALECT, without_null
from steerguard.trust.document import TrustPolicy

SCHEMA_ID: Final = "urn:steerguard:trust-policy:v1alpha1"
FILE_NAME: Final = "trust-policy.v1alpha1.schema.json"


def trust_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a trust policy."""
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **without_null(TrustPolicy.model_json_schema(by_alias=True))}


def render() -> str:
    """Return the text of the committed schema file."""
    return json.dumps(trust_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    keep_in_step(render, command="steerguard.trust.schemas")
