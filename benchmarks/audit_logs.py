"""Realistic audit logs and decisions for the benchmark of the audit log's cost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from tests.audit_events import ARTIFACTS, MODEL, PLAN, POLICY, bypass, request, sized_content

from steerguard.audit.log import AuditLog
from steerguard.audit.records.events import EventBody
from steerguard.audit.records.fields import RecordedBudget
from steerguard.audit.records.record import DecisionContext, decision_event
from steerguard.audit.settings import Durability
from steerguard.decision import Decision, Dose, Reading, Threshold, Usage

CONTEXT = DecisionContext(policy=POLICY, plan=PLAN, model=MODEL, artifacts=ARTIFACTS)
BUDGET = RecordedBudget(outcome="within", max_extra_forward_tokens=0)
CONTENT = sized_content()
BOUNDS = (
    ("refuse_clear_harm", "at_least", 5.25, "0.001"),
    ("guide_suspected_harm", "at_least", 1.25, "0.05"),
    ("guide_suspected_harm", "below", 5.25, "0.001"),
)


def decision_of(number: int, readings: int = 11, row: int = 0) -> Decision:
    """Return a decision as InferAligner leaves one; every object in it is new, as in a running guard.

    Args:
        number: of the request; scores depend on it.
        readings: one of the detector, and one for the gate of each block.
        row: of the request.
    """
    rng = random.Random(number)
    thresholds = tuple(Threshold(rule=r, bound=b, value=v, fpr=f) for r, b, v, f in BOUNDS)
    gates = [Threshold(rule="align", bound="at_least", value=1.401298464324817e-45) for _ in range(readings - 1)]
    return Decision(
        request=f"01KAN5C3T4W8E0V8Q3M1{number % 1_000_000:06d}",
        row=row,
        mode="enforce",
        readings=(
            Reading(source="harmful_intent", score=rng.gauss(0.0, 2.0), thresholds=thresholds, tolerance=0.421292),
            *(
                Reading(source=f"align/block {10 + block}", score=rng.gauss(0.4, 0.1), thresholds=(gate,))
                for block, gate in enumerate(gates)
            ),
        ),
        rules=("guide_suspected_harm",),
        cause="rule",
        intended="guide",
        applied="guide",
        doses=(
            Dose(
                step="align",
                method="inferaligner",
                open_blocks=tuple(range(10, 9 + readings)),
                coefficient="1.0",
                positions=24,
                expected_positions=24,
            ),
        ),
        usage=Usage(prompt_tokens=57, generated_tokens=128, extra_forward_tokens=0),
    )


def event_of(decision: Decision) -> EventBody:
    """Return the event of a decision, as the guard makes it."""
    return decision_event(decision, CONTEXT, content=CONTENT, budget=BUDGET)


def mixed_events(seed: int = 0) -> Iterator[EventBody]:
    """Yield events without end: calls of 1 to 4 rows, each with its decisions of 1 to 11 readings; few bypasses.

    Bodies are drawn from a fixed row of 500 calls: making them anew would take longer than verifying them.
    """
    rng = random.Random(seed)
    calls = []
    for number in range(500):
        rows = rng.choice((1, 1, 1, 2, 4))
        calls.append(
            [event_of(decision_of(number, rng.randint(1, 11), row)) for row in range(rows)] + [request(rows=rows)]
        )
    while True:
        yield from rng.choice(calls)
        if rng.random() < 0.0005:
            yield bypass()


def write_log(directory: Path, records: int) -> float:
    """Write one finished log of about so many records, and return the mean length of its lines in bytes."""
    with AuditLog.open(directory, content="none", durability=Durability(mode="never")) as log:
        for _, event in zip(range(records), mixed_events(), strict=False):
            log.record(event)
    paths = list(directory.glob("*.jsonl"))
    return sum(path.stat().st_size for path in paths) / records
