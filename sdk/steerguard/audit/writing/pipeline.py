"""The structlog pipeline of one log: stamp → context → allow-list → redaction → canonical line → chain and sink.

The logger is built with `structlog.wrap_logger` and every option stated, so it neither reads nor changes what the host
gave to `structlog.configure`, and no level filter can drop a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol, cast
from uuid import UUID

import structlog
from structlog.contextvars import get_contextvars

from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.records.allow_list import SettledParts, admitted, opened
from steerguard.audit.records.events import RECORD_VERSION, EventBody
from steerguard.audit.records.fields import CONTEXT_LENGTH, escaped
from steerguard.errors import AuditError

CONTEXT_NAMES: Final = ("request_id", "trace_id", "tenant")
"""The only names that are taken over from structlog's context variables."""

DURABLE_TYPES: Final = frozenset(
    {
        "log.open",
        "log.close",
        "log.recovered",
        "log.rotate",
        "log.prune",
        "log.hold",
        "log.key_rotate",
        "checkpoint",
        "content.erased",
        "policy.reject",
        "artifact.verify_failed",
        "artifact.revoked",
        "budget.exceeded",
        "guard.bypass",
        "guard.error",
    }
)
"""Events that a power cut must not lose in any mode of durability, besides decisions that refuse or hold an error."""

Fields = MutableMapping[str, Any]
Processor = Callable[[Any, str, Fields], Any]


class ChainEnd(Protocol):
    """Where the next record of a log attaches."""

    log_id: str
    opened_ns: int

    @property
    def seq(self) -> int:
        """Sequence number of the next record."""

    @property
    def prev(self) -> str:
        """Leaf hash of the last record."""


class AuditLogger(structlog.BoundLoggerBase):
    """A structlog logger with one method and no levels."""

    def event(self, body: EventBody) -> object:
        """Send one event through the pipeline and return what the chain returned."""
        return self._proxy_to_logger("append", body=body)


def audit_logger(chain: ChainEnd, *, content: ContentRule) -> AuditLogger:
    """Build the logger of one log.

    Args:
        chain: the wrapped logger; besides `ChainEnd` it has `append(line, *, durable)`.
        content: what may be recorded of prompts and answers; after a rotation of the key, build another logger.
    """
    processors: list[Processor] = [
        stamp(WallClock()),
        carry_context,
        allow_listed,
        redaction(content),
        render(SettledParts()),
    ]
    lazy = structlog.wrap_logger(
        chain,
        processors=processors,
        wrapper_class=AuditLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return cast("AuditLogger", lazy.bind())


def stamp(clock: Callable[[], str]) -> Processor:
    """Make the processor that opens the event and adds the envelope.

    The caller holds the chain's lock until the line is written.
    """

    def add_envelope(chain: ChainEnd, _method: str, event: Fields) -> Fields:
        body = event["body"]
        record: Fields = opened(body)
        record["v"] = RECORD_VERSION
        record["type"] = body.event_type
        record["log"] = chain.log_id
        record["seq"] = chain.seq
        record["prev"] = chain.prev
        record["t"] = clock()
        record["mono"] = (time.monotonic_ns() - chain.opened_ns) // 1000
        return record

    return add_envelope


class WallClock:
    """Tells the time in UTC as records write it: RFC 3339 with microseconds."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        """Return the time now; the text of the second is kept for the next call."""
        second, rest = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = second
        return f"{self._text}.{rest // 1000:06d}Z"


def carry_context(_chain: ChainEnd, _method: str, record: Fields) -> Fields:
    """Take over the request id, trace id and tenant that the host bound, escaped to ASCII; nothing else.

    Raises:
        AuditError: a bound value is neither text, integer nor UUID, or too long. Cutting it would merge two tenants.
    """
    bound = get_contextvars()
    if not bound:
        return record
    for name in CONTEXT_NAMES:
        value = bound.get(name)
        if value is None:
            continue
        text = _context_text(value)
        if text is None or len(text) > CONTEXT_LENGTH:
            raise AuditError(
                f"The context variable '{name}' cannot be recorded.",
                where=f"structlog.contextvars, {name}",
                expected=f"a string, integer or UUID of at most {CONTEXT_LENGTH} characters once escaped to ASCII",
                found=type(value).__name__ if text is None else f"{len(text)} characters",
                next_step=f"Bind a short id as {name}, or unbind it around the call.",
            )
        record[name] = text
    return record


def _context_text(value: object) -> str | None:
    """Return the value escaped to ASCII; None for a value of another kind, or an integer too long to be written out.

    What a subclass says of itself is not asked.
    """
    if isinstance(value, str):
        return escaped(str.__str__(value))
    if isinstance(value, int):
        number = int.__int__(value)
        return str(number) if number.bit_length() <= 4 * CONTEXT_LENGTH else None
    return UUID.__str__(value) if isinstance(value, UUID) else None


def allow_listed(_chain: ChainEnd, _method: str, record: Fields) -> Fields:
    """Let a record pass only as its type's closed model admits it.

    Raises:
        AuditError: something is not in the model. The message names the place, never the value.
    """
    return admitted(cast("dict[str, Any]", record))


def redaction(rule: ContentRule) -> Processor:
    """Make the processor that refuses content which the log's mode and key do not admit."""

    def refuse_content(chain: ChainEnd, _method: str, record: Fields) -> Fields:
        content = record.get("content")
        # `content` is also a field of `log.open`, where it is the mode.
        if isinstance(content, dict):
            rule.check(content, chain.log_id)
        return record

    return refuse_content


def render(parts: SettledParts) -> Callable[[Any, str, Fields], tuple[tuple[bytes], dict[str, bool]]]:
    """Make the processor that turns a record into its line, and says whether it must be on the medium at return."""

    def canonical(_chain: ChainEnd, _method: str, record: Fields) -> tuple[tuple[bytes], dict[str, bool]]:
        return (parts.line(cast("dict[str, Any]", record)),), {"durable": is_durable(record)}

    return canonical


def is_durable(record: Fields) -> bool:
    """Return whether a power cut must not lose this record, whatever the log's durability is."""
    kind = record["type"]
    if kind == "guard.decision":
        return bool(record["applied"] == "refuse" or record["err"] is not None)
    return kind in DURABLE_TYPES
