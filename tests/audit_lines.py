"""A chain that keeps the lines of the pipeline, without files and without `AuditLog`."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.audit_events import LOG

from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.records.chain import FIRST_PREV, leaf_hash
from steerguard.audit.records.events import EventBody
from steerguard.audit.writing.pipeline import audit_logger

NO_CONTENT = ContentRule(mode="none")


class Lines:
    """The end of a chain in memory; it has what `pipeline.ChainEnd` and the pipeline ask for."""

    log_id = LOG

    def __init__(self, content: ContentRule = NO_CONTENT) -> None:
        self.opened_ns = time.monotonic_ns()
        self.prev = FIRST_PREV
        self.lines: list[bytes] = []
        self.durable: list[bool] = []
        self.logger = audit_logger(self, content=content)

    @property
    def seq(self) -> int:
        """Sequence number of the next record."""
        return len(self.lines)

    def append(self, line: bytes, *, durable: bool) -> int:
        """Keep one line and return its sequence number."""
        self.prev = leaf_hash(line)
        self.lines.append(line)
        self.durable.append(durable)
        return len(self.lines) - 1

    def record(self, body: EventBody) -> dict[str, Any]:
        """Send one event through the pipeline and return the record as it was written."""
        assert self.logger.event(body) == len(self.lines) - 1
        return json.loads(self.lines[-1])


def line_of(body: EventBody, content: ContentRule = NO_CONTENT) -> dict[str, Any]:
    """Return the record that a log would write of this event."""
    return Lines(content).record(body)
