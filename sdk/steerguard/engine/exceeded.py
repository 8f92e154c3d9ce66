"""Limits of a policy's budget that rows reached: plain data for the audit log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from steerguard.decision import Decision
    from steerguard.plan.plan import Plan

Limit = Literal["max_extra_forward_tokens", "max_added_latency_ms", "max_extra_memory_mib"]
"""Limits that can be reached while a call runs. `max_candidates` cannot: no plan draws more than it allows."""

MEBIBYTE: Final = 1 << 20

SEARCH_LIMITS: Final[Mapping[str, Limit]] = {
    "forward_tokens": "max_extra_forward_tokens",
    "latency": "max_added_latency_ms",
    "memory": "max_extra_memory_mib",
}
"""By outcome of a search, the limit that ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExceededLimit:
    """One limit that one row reached."""

    row: int
    limit: Limit
    allowed: int
    """The limit, in the unit of its name."""
    spent: int | None
    """What had been spent, or would have had to be to begin, in the same unit; None where it is not counted."""
    then: Literal["refuse", "fallback"]
    """What the policy says follows: the row is refused, or the next fallback is tried."""


def limit_of(plan: Plan, limit: Limit) -> int | None:
    """Return a limit of a plan in the unit of its name; None where the plan has none."""
    if limit == "max_extra_memory_mib":
        return None if plan.max_extra_memory_bytes is None else plan.max_extra_memory_bytes // MEBIBYTE
    return plan.max_added_latency_ms if limit == "max_added_latency_ms" else plan.max_extra_forward_tokens


def exceeded(
    plan: Plan, row: int, limit: Limit, spent: int | None, *, then: Literal["refuse", "fallback"] = "refuse"
) -> tuple[ExceededLimit, ...]:
    """Return that a row reached a limit; nothing where the plan has no such limit, as where a device's memory is full."""
    allowed = limit_of(plan, limit)
    if allowed is None:
        return ()
    return (ExceededLimit(row=row, limit=limit, allowed=allowed, spent=spent, then=then),)


def mebibytes(count: int) -> int:
    """Return a number of bytes in MiB, rounded up."""
    return -(-count // MEBIBYTE)


def before_answers(
    found: Iterable[ExceededLimit], rows: Sequence[int], decisions: Sequence[Decision]
) -> Iterator[ExceededLimit]:
    """Yield the limits for which returned sequences were refused at the prompt, with the numbers of these sequences.

    Args:
        found: by row of the batch, whatever was decided about it in the end.
        rows: the row of the batch that each returned sequence stands for.
        decisions: of the returned sequences.
    """
    found = tuple(found)
    for index, row in enumerate(rows if found else ()):
        if decisions[index].cause == "budget":
            yield from (replace(one, row=index) for one in found if one.row == row)
