"""One log being written: its chain state, its lock and its sink."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from steerguard.audit.chain import FIRST_PREV, leaf_hash
from steerguard.audit.events import EventBody, LogClose
from steerguard.audit.pipeline import audit_logger
from steerguard.audit.sinks import AuditSink
from steerguard.errors import AuditError, AuditSinkError


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a record is. Kept on another machine, it proves that the log up to here was not rewritten."""

    log: str
    seq: int
    leaf: str
    """Leaf hash of the line, hexadecimal."""


class ChainWriter:
    """Appends records to one log, one at a time. It has the fields of `pipeline.ChainEnd`.

    Args:
        log_id: id of the log.
        sink: where the lines go; the writer closes it.
        key_id: id of the key for content, None when the content mode is `none`.
    """

    def __init__(self, log_id: str, sink: AuditSink, *, key_id: str | None) -> None:
        self.log_id = log_id
        self.seq = 0
        self.prev = FIRST_PREV
        self.opened_ns = time.monotonic_ns()
        self._sink = sink
        self._lock = threading.Lock()
        self._logger = audit_logger(self, key_id=key_id)
        self._refusal: str | None = None

    def record(self, body: EventBody) -> Receipt:
        """Record one event, or raise and leave the log as it was.

        Raises:
            AuditSinkError: the line could not be written, or the log is closed or broken.
            AuditError: the event does not fit the schema of audit records.
        """
        fields = body.model_dump(serialize_as_any=True)
        with self._lock:
            return self._send(body.event_type, fields)

    def close(self) -> None:
        """Write `log.close`, make the log durable and release the sink; a second call does nothing.

        Raises:
            AuditSinkError: the last record could not be written; the sink is released all the same.
        """
        with self._lock:
            if self._refusal == _CLOSED:
                return
            try:
                if self._refusal is None:
                    self._send(LogClose.event_type, {})
            finally:
                self._refusal = _CLOSED
                self._sink.close()

    def abandon(self) -> None:
        """Release the sink without a record: in a forked child the log still belongs to the parent."""
        self._refusal = _CLOSED
        self._sink.close()

    def append(self, line: bytes, *, durable: bool) -> Receipt:
        """Write one line and move the chain on. Called by the pipeline, under the lock."""
        leaf = leaf_hash(line)
        # Until the chain state matches the sink again, anything that breaks in (a KeyboardInterrupt too) ends the log.
        self._refusal = "an earlier write was interrupted, so the end of the log is unknown"
        try:
            self._sink.write(line)
        except AuditSinkError:
            self._refusal = None
            raise
        except OSError as error:
            raise self._sink_failure(error.strerror) from error
        receipt = Receipt(self.log_id, self.seq, leaf)
        self.seq += 1
        self.prev = leaf
        if durable:
            self._sync()
        self._refusal = None
        return receipt

    def _send(self, event_type: str, fields: dict[str, object]) -> Receipt:
        if self._refusal is not None:
            raise self._sink_failure(self._refusal)
        receipt = self._logger.record(event_type, fields)
        if not isinstance(receipt, Receipt):
            raise AuditError("The audit pipeline dropped a record.", where=self.log_id)
        return receipt

    def _sync(self) -> None:
        try:
            self._sink.sync()
        except OSError as error:
            raise self._sink_failure(error.strerror) from error

    def _sink_failure(self, found: str | None) -> AuditSinkError:
        return AuditSinkError(
            "The audit record could not be written.",
            where=self.log_id,
            found=found,
            next_step="Repair the cause, then open a new log.",
        )


_CLOSED = "the log is closed"
