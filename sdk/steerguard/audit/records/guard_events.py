"""Events of a guard: policies, artifacts, requests, decisions, bypasses and errors."""

from __future__ import annotations

from typing import Literal

from steerguard.audit.records.event_body import EventBody
from steerguard.audit.records.fields import (
    ArtifactPin,
    Count,
    Date,
    Digest,
    Identifier,
    Mode,
    ModelReference,
    Number,
    PolicyReference,
    RecordedActions,
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
    VettingLevel,
)
from steerguard.decision import (
    Action,
    Cause,
)
from steerguard.registry.names import (
    RegistryName,
)


class PolicyLoad(EventBody):
    """A policy was compiled into a plan and put in force on a model."""

    event_type = "policy.load"
    policy: PolicyReference
    plan: Digest
    mode: Mode
    model: ModelReference
    artifacts: tuple[ArtifactPin, ...]


class PolicySwap(EventBody):
    """Another plan is in force for single requests. That of a guard stays what `policy.load` says."""

    event_type = "policy.swap"
    scope: Literal["request"]
    """The plan is known to the log from now on; which requests ran under it their decisions say."""
    policy: PolicyReference
    plan: Digest
    previous_policy: PolicyReference
    previous_plan: Digest
    mode: Mode
    model: ModelReference
    artifacts: tuple[ArtifactPin, ...]


class PolicyReject(EventBody):
    """A policy was asked for and not put in force."""

    event_type = "policy.reject"
    scope: Literal["guard", "request"]
    code: Identifier
    """Class name of the error."""
    rejected: PolicyReference | None
    """Null where the document could not be read."""
    policy: PolicyReference | None
    """The one in force, which stays; null while a model is being wrapped."""
    plan: Digest | None


class ArtifactVerifyFailed(EventBody):
    """An artifact was not loaded because its bytes, signature, vetting or fit could not be verified."""

    event_type = "artifact.verify_failed"
    ref: Identifier | None
    """Null where the error does not say which."""
    digest: Digest | None
    """The digest that was expected; null where none was known."""
    code: Identifier
    """Class name of the error."""


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


class GuardRequest(EventBody):
    """The summary of one call, after its decisions and before its output is released."""

    event_type = "guard.request"
    req: Identifier
    """Id that all decisions of the call share."""
    call: Literal["generate", "check", "forward"]
    rows: Count
    mode: Mode
    policy: PolicyReference
    plan: Digest
    model: ModelReference
    intended: RecordedActions
    applied: RecordedActions
    usage: RecordedUsage
    """Summed over the rows."""
    duration_us: Count
    """From the start of the call to this record, monotonic clock."""
    guard_us: Count
    """Of that, the time outside of transformers' `generate` and its loop, or of the app's own pass in `forward`: checks,
    planning, passes before the prefill, searches, decisions and records. What hooks do inside the loop is not in it."""


class BudgetExceeded(EventBody):
    """A limit of the policy's budget was reached for one row."""

    event_type = "budget.exceeded"
    req: Identifier
    row: Count
    policy: PolicyReference
    plan: Digest
    limit: Literal["max_extra_forward_tokens", "max_added_latency_ms", "max_extra_memory_mib"]
    allowed: Count
    """The limit, in the unit of its name."""
    spent: Count | None
    """What had been spent when it was reached, or what the row would have taken where nothing was begun, in the same unit;
    null where it is not counted."""
    then: Literal["refuse", "fallback"]
    """What the policy says follows; what was done the decision of the row says."""


class GuardBypass(EventBody):
    """Something passed without full guidance because someone allowed it in advance."""

    event_type = "guard.bypass"
    req: Identifier | None
    kind: Literal[
        "unguided",
        "unwrap",
        "unrecognised_prompt",
        "unsigned_artifact",
        "unsafe_passthrough",
    ]
    reason: StatedReason
    """The reason that the policy, the trust policy or the caller stated."""
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
