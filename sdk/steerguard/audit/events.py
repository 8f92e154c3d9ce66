"""The closed, versioned set of audit events, each a typed record.

An event body is what a caller gives to `AuditLog.record`.
The record in the log is the body together with the fields of `Envelope`, which the log fills in.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, Union

from pydantic import Field, TypeAdapter, create_model

from steerguard.audit.fields import (
    ArtifactPin,
    ContentMode,
    ContextText,
    Count,
    Date,
    Digest,
    Hash,
    Identifier,
    KeyId,
    Label,
    LogId,
    Mode,
    ModelReference,
    Number,
    Part,
    PolicyReference,
    RecordedBudget,
    RecordedContent,
    RecordedDose,
    RecordedError,
    RecordedReading,
    RecordedSearch,
    RecordedUsage,
    RevocationReason,
    SigningKeyId,
    Stage,
    StatedReason,
    Timestamp,
    VettingLevel,
)
from steerguard.decision import Action, Cause
from steerguard.registry.names import RegistryName

RECORD_VERSION: Final = 1

EventType = Literal[
    "log.open",
    "log.close",
    "log.recovered",
    "policy.load",
    "artifact.load",
    "artifact.revoked",
    "guard.decision",
    "guard.bypass",
    "guard.error",
]


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


class EventBody(Part):
    """What a caller records. One subclass per event type."""

    event_type: ClassVar[EventType]


class LogOpen(EventBody):
    """The first record of every log."""

    event_type = "log.open"
    sdk: Label
    """Version of steerguard."""
    python: Label
    pid: Count
    content: ContentMode
    key: KeyId | None
    """Id of the key that content is hashed with; null when content is `none`."""
    forked_from: LogId | None
    """The parent's log when this process was forked while a log was open."""


class LogClose(EventBody):
    """The last record of a log that was closed in an orderly way."""

    event_type = "log.close"


class LogRecovered(EventBody):
    """Bytes after the last complete line were set aside before writing went on."""

    event_type = "log.recovered"
    torn_bytes: Count
    torn_digest: Digest


class PolicyLoad(EventBody):
    """A policy was compiled into a plan and put in force on a model."""

    event_type = "policy.load"
    policy: PolicyReference
    plan: Digest
    mode: Mode
    model: ModelReference
    artifacts: tuple[ArtifactPin, ...]


class ArtifactLoad(EventBody):
    """An artifact was verified and loaded."""

    event_type = "artifact.load"
    artifact: ArtifactPin
    artifact_type: Identifier
    """For example `steering_vectors` or `probe`."""
    fingerprint_distance: Number | None
    """Measured distance of the model to the artifact's fingerprint; null when it has none."""
    fingerprint_limit: Number | None
    signed_by: tuple[SigningKeyId, ...] = ()
    """Ids of the publisher's keys whose signatures counted, sorted; empty where no signature was asked for. Records of earlier versions lack it."""
    vetting_level: VettingLevel | None = None
    """Level of the vetting record that counted; null where there was none. Records of earlier versions lack it."""


class ArtifactRevoked(EventBody):
    """What a running guard learned about an artifact that it uses, once per artifact and change."""

    event_type = "artifact.revoked"
    artifact: ArtifactPin
    registry: RegistryName | None
    """The registry whose list says it; null for `restored`."""
    state: Literal["revoked", "stale", "restored"]
    """`revoked`: a list names the artifact or its keys. `stale`: a list is too old to rely on, or was never read.
    `restored`: neither any more."""
    reason: RevocationReason | None
    """Why it was revoked; null for other states."""
    action: Literal["refuse", "warn", "none"]
    """`refuse`: in mode `enforce` every row is refused. `warn`: this record is all. `none`: `restored`."""
    sequence: Count | None
    """Of the list; null where none was read, and for `restored`."""
    allowed: StatedReason | None
    """The reason that the trust policy gives for going on with a stale list; null where there is none."""


class GuardDecision(EventBody):
    """What the guard read, intended and did for one row of one request."""

    event_type = "guard.decision"
    req: Identifier
    row: Count
    policy: PolicyReference
    plan: Digest
    """Digest of the compiled plan: it identifies the rules, steps and thresholds."""
    model: ModelReference
    artifacts: tuple[ArtifactPin, ...]
    mode: Mode
    readings: tuple[RecordedReading, ...]
    rules: tuple[Identifier, ...]
    """Rules that matched, in document order."""
    cause: Cause
    intended: Action
    applied: Action
    doses: tuple[RecordedDose, ...]
    usage: RecordedUsage
    budget: RecordedBudget | None
    """Null when the policy has no budget."""
    template_cut: bool
    content: RecordedContent
    err: RecordedError | None
    search: RecordedSearch | None = None
    """Null where no search was asked for, and in records of versions that had none."""


class GuardBypass(EventBody):
    """Something passed without full guidance because someone allowed it in advance."""

    event_type = "guard.bypass"
    req: Identifier | None
    kind: Literal["unguided", "unwrap", "detector_failure", "guidance_failure", "audit_failure", "unrecognised_prompt"]
    reason: Label
    """The reason that the policy or the caller stated."""
    expires: Date | None
    policy: PolicyReference | None
    plan: Digest | None


class GuardError(EventBody):
    """Something failed; the row was refused or the call raised."""

    event_type = "guard.error"
    req: Identifier | None
    row: Count | None
    stage: Stage
    code: Identifier
    """Class name of the error."""
    outcome: Literal["refuse", "raise"]
    policy: PolicyReference | None
    plan: Digest | None


BODIES: Final[tuple[type[EventBody], ...]] = (
    LogOpen,
    LogClose,
    LogRecovered,
    PolicyLoad,
    ArtifactLoad,
    ArtifactRevoked,
    GuardDecision,
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
