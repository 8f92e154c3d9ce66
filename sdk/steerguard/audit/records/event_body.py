"""What every event has: a type of the closed set."""

from __future__ import annotations

from typing import ClassVar, Literal

from steerguard.audit.records.fields import Part

EventType = Literal[
    "log.open",
    "log.close",
    "log.recovered",
    "log.rotate",
    "log.prune",
    "log.hold",
    "log.key_rotate",
    "checkpoint",
    "content.erased",
    "policy.load",
    "policy.swap",
    "policy.reject",
    "artifact.load",
    "artifact.verify_failed",
    "artifact.revoked",
    "guard.decision",
    "guard.request",
    "budget.exceeded",
    "guard.bypass",
    "guard.error",
]


class EventBody(Part):
    """What a caller records. One subclass per event type."""

    event_type: ClassVar[EventType]
