"""The structlog pipeline of one log: stamp → context → allow-list → redaction → canonical line → chain and sink.

The logger is built with `structlog.wrap_logger` and every option stated, so it neither reads nor changes what the host
gave to `structlog.configure`, and no level filter can drop a record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol, cast
from uuid import UUID

import structlog
from pydantic import ValidationError
from structlog.contextvars import get_contextvars

from steerguard.audit.chain import canonical_line
from steerguard.audit.events import RECORD_VERSION, RECORDS
from steerguard.audit.fields import CONTEXT_LENGTH, escaped
from steerguard.errors import AuditError

CONTEXT_NAMES: Final = ("request_id", "trace_id", "tenant")
"""The only names that are taken over from structlog's context variables."""

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

    def record(self, event_type: str, fields: dict[str, Any]) -> object:
        """Send one event through the pipeline and return what the chain returned."""
        return self._proxy_to_logger("append", event_type, fields=fields)


def audit_logger(chain: ChainEnd, *, key_id: str | None) -> AuditLogger:
    """Build the logger of one log.

    Args:
        chain: the wrapped logger; besides `ChainEnd` it has `append(line, *, durable)`.
        key_id: id of the only key whose content tags may be recorded; None when no content tag may.
    """
    processors: list[Processor] = [stamp, carry_context, allow_listed, redaction(key_id), render]
    lazy = structlog.wrap_logger(
        chain,
        processors=processors,
        wrapper_class=AuditLogger,
        context_class=dict,
        cache_logger_on_first_use=False,
    )
    return cast("AuditLogger", lazy.bind())


def stamp(chain: ChainEnd, _method: str, event: Fields) -> Fields:
    """Add the envelope: the caller holds the chain's lock until the line is written."""
    return {
        **event["fields"],
        "v": RECORD_VERSION,
        "type": event["event"],
        "log": chain.log_id,
        "seq": chain.seq,
        "prev": chain.prev,
        "t": datetime.now(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z",
        "mono": (time.monotonic_ns() - chain.opened_ns) // 1000,
    }


def carry_context(_chain: ChainEnd, _method: str, record: Fields) -> Fields:
    """Take over the request id, trace id and tenant that the host bound, escaped to ASCII; nothing else.

    Raises:
        AuditError: a bound value is neither text, integer nor UUID, or too long. Cutting it would merge two tenants.
    """
    bound = get_contextvars()
    for name in CONTEXT_NAMES:
        value = bound.get(name)
        if value is None:
            continue
        text = escaped(str(value)) if isinstance(value, (str, int, UUID)) else None
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


def allow_listed(_chain: ChainEnd, _method: str, record: Fields) -> Fields:
    """Let a record pass only if its type's closed model admits every key and value.

    Raises:
        AuditError: something is not in the model. The message names the place, never the value.
    """
    model = RECORDS.get(record["type"])
    if model is None:
        raise AuditError("This event type is not in the closed set of audit events.", expected=", ".join(RECORDS))
    try:
        model.model_validate(record)
    except ValidationError as error:
        raise refused_fields(error, where=record["type"]) from None
    return record


def refused_fields(error: ValidationError, *, where: str) -> AuditError:
    """Translate a validation error without the values that it carries."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # An unknown key is itself the caller's text, so only known names are shown.
    path = ".".join(str(part) for part in (first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]))
    return AuditError(
        "The event does not fit the closed schema of audit records.",
        where=f"{where} {path}".strip(),
        found=first["msg"],
    )


def redaction(key_id: str | None) -> Processor:
    """Make the processor that refuses content which is not a tag under the log's own key.

    With `key_id` None no content tag passes at all: only sizes are recorded.
    """
    prefix = None if key_id is None else f"hmac:{key_id}:"

    def refuse_content(_chain: ChainEnd, _method: str, record: Fields) -> Fields:
        content = record.get("content")
        if not isinstance(content, dict):
            return record
        for name in ("in", "out"):
            tag = content[name]
            if tag is not None and (prefix is None or not tag.startswith(prefix)):
                raise AuditError(
                    "The event holds content that this log must not hold.",
                    where=f"content.{name}",
                    expected="null, because the content mode is 'none'" if prefix is None else f"null or {prefix}…",
                    next_step="Tag content with the log's own key.",
                )
        return record

    return refuse_content


def render(_chain: ChainEnd, _method: str, record: Fields) -> tuple[tuple[bytes], dict[str, bool]]:
    """Turn the record into its line, and say whether it must be on the medium before the call returns."""
    return (canonical_line(record),), {"durable": is_durable(record)}


def is_durable(record: Fields) -> bool:
    """Return whether a power cut must not lose this record: refusals, revocations, bypasses, errors, and the ends of a log."""
    kind = record["type"]
    if kind == "guard.decision":
        return bool(record["applied"] == "refuse" or record["err"] is not None)
    return kind in {"artifact.revoked", "guard.bypass", "guard.error", "log.open", "log.close"}
