"""The closed, versioned set of audit events, each a typed record.

An event body is what a caller gives to `AuditLog.record`.
The record in the log is the body together with the fields of `Envelope`, which the log fills in.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Union

from pydantic import Field, TypeAdapter, create_model

from steerguard.audit.records.event_body import EventBody, EventType
from steerguard.audit.records.fields import (
    ContextText,
    Count,
    Hash,
    LogId,
    Part,
    Timestamp,
)
from steerguard.audit.records.guard_events import (
    ArtifactLoad,
    ArtifactRevoked,
    ArtifactVerifyFailed,
    BudgetExceeded,
    GuardBypass,
    GuardDecision,
    GuardError,
    GuardRequest,
    PolicyLoad,
    PolicyReject,
    PolicySwap,
)
from steerguard.audit.records.log_events import (
    Checkpoint,
    ContentErased,
    LogClose,
    LogHold,
    LogKeyRotate,
    LogOpen,
    LogPrune,
    LogRecovered,
    LogRotate,
)

__all__ = [
    "ANY_RECORD",
    "BODIES",
    "RECORDS",
    "RECORD_VERSION",
    "ArtifactLoad",
    "ArtifactRevoked",
    "ArtifactVerifyFailed",
    "BudgetExceeded",
    "Checkpoint",
    "ContentErased",
    "Envelope",
    "EventBody",
    "EventType",
    "GuardBypass",
    "GuardDecision",
    "GuardError",
    "GuardRequest",
    "LogClose",
    "LogHold",
    "LogKeyRotate",
    "LogOpen",
    "LogPrune",
    "LogRecovered",
    "LogRotate",
    "PolicyLoad",
    "PolicyReject",
    "PolicySwap",
    "event_schema",
]

RECORD_VERSION: Final = 1


class Envelope(Part):
    """Fields of every record, filled in by the log."""

    v: Literal[1]
    """Version of the record format."""
    log: LogId
    """The log that this record belongs to; also the stem of the file name."""
    seq: Count
    """Position in the log, from 0, without gaps."""
    t: Timestamp
    """Wall clock, UTC, RFC 3339 with microseconds."""
    mono: Count
    """Microseconds of the monotonic clock since the log was opened; it never goes backwards."""
    prev: Hash
    """Leaf hash of the previous line; 64 zeros in the first record."""
    request_id: ContextText = ""
    """Present when the host bound it in structlog's context variables, escaped to ASCII."""
    trace_id: ContextText = ""
    """As `request_id`."""
    tenant: ContextText = ""
    """As `request_id`."""


BODIES: Final[tuple[type[EventBody], ...]] = (
    LogOpen,
    LogClose,
    LogRecovered,
    LogRotate,
    LogPrune,
    LogHold,
    LogKeyRotate,
    Checkpoint,
    ContentErased,
    PolicyLoad,
    PolicySwap,
    PolicyReject,
    ArtifactLoad,
    ArtifactVerifyFailed,
    ArtifactRevoked,
    GuardDecision,
    GuardRequest,
    BudgetExceeded,
    GuardBypass,
    GuardError,
)


def _record_model(body: type[EventBody]) -> type[Part]:
    fields: dict[str, Any] = {"type": (Literal[body.event_type], ...)}
    return create_model(f"{body.__name__}Record", __base__=(body, Envelope), __doc__=body.__doc__, **fields)


RECORDS: Final[dict[str, type[Part]]] = {body.event_type: _record_model(body) for body in BODIES}
"""Complete record model per event type."""

_ANY_RECORD: Any = Annotated[Union[tuple(RECORDS.values())], Field(discriminator="type")]  # noqa: UP007 - built at run time
ANY_RECORD: Final[TypeAdapter[Part]] = TypeAdapter(_ANY_RECORD)
"""Validates one record of any type."""


def event_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one line of an audit log, discriminated on `type`."""
    schema = ANY_RECORD.json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"steerguard audit record, version {RECORD_VERSION}",
        **schema,
    }
