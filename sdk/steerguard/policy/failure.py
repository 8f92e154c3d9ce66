"""What happens when something fails; every value that loosens needs a reason and a last day."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from steerguard.methods.section import Section

MIN_REASON = 10


class Loosening(Section):
    """Permission to continue unguided; each use writes a `guard.bypass` event."""

    action: Literal["allow"]
    """Write `allow`: the request goes on without the guard."""
    reason: Annotated[str, Field(min_length=MIN_REASON, max_length=500)]
    """Why this is acceptable, for whoever reads the audit log."""
    expires: Annotated[date, Field(json_schema_extra={"x-unit": "date as YYYY-MM-DD, UTC"})]
    """Last day on which the policy may be loaded; from the next day on it is refused."""


def _kind_of_handling(value: Any) -> str:
    return "loosened" if isinstance(value, (dict, Loosening)) else "strict"


FailureHandling = Annotated[
    Annotated[Literal["refuse"], Tag("strict")] | Annotated[Loosening, Tag("loosened")],
    Discriminator(_kind_of_handling),
]
"""`refuse`, or `{action: allow, reason: …, expires: …}`."""

UnrecognisedPrompt = Annotated[
    Annotated[Literal["refuse", "gate_every_turn"], Tag("strict")] | Annotated[Loosening, Tag("loosened")],
    Discriminator(_kind_of_handling),
]
"""`refuse`, `gate_every_turn`, or `{action: allow, reason: …, expires: …}`."""


class Failure(Section):
    """What happens to a row when a part of the guard fails."""

    detector: FailureHandling = "refuse"
    """When a detector raises or its score is not finite."""
    guidance: FailureHandling = "refuse"
    """When a guidance step raises, or finds no answer within its limits."""
    audit: FailureHandling = "refuse"
    """When the decision cannot be recorded."""
