"""What `--strict` adds for one line: no key twice, canonical form, and the schema of its type."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import ValidationError

from steerguard.audit.records.chain import canonical_line
from steerguard.audit.records.events import RECORDS
from steerguard.audit.verification.report import Fault


class _DuplicateKeyError(ValueError):
    """Leaves the JSON parser when an object has a key twice."""


def strict_fault(line: bytes) -> Fault | None:
    """Return what is wrong with a line when it is looked at by itself; None when nothing is."""
    try:
        record = json.loads(
            line.decode("utf-8"), object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse
        )
        canonical = isinstance(record, dict) and canonical_line(record) == line
    except _DuplicateKeyError:
        return "duplicate_key"
    except (ValueError, RecursionError):
        return "json"
    if not isinstance(record, dict):
        return "json"
    if not canonical:
        return "canonical"
    return schema_fault(record.get("type"), line)


def schema_fault(kind: object, line: bytes) -> Fault | None:
    """Return `schema` when the line does not fit the model of its type."""
    model = RECORDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return "schema"
    try:
        model.model_validate_json(line)
    except ValidationError:
        return "schema"
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise _DuplicateKeyError
    return record


def _refuse(_text: str) -> NoReturn:
    raise ValueError
