"""One log being written: its chain state, its lock and its sink."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass

from steerguard.audit.chain import FIRST_PREV, leaf_hash
from steerguard.audit.events import EventBody, LogClose
from steerguard.audit.pipeline import audit_logger
from steerguard.audit.sinks import NEW_LOG, AuditSink, SettlingSink
from steerguard.errors import AuditError, AuditSinkError


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a record is. Kept on another machine, it proves that the log up to here was not rewritten."""

    log: str
    seq: int
    leaf: str
    """Leaf hash of the line, hexadecimal."""


@dataclass(frozen=True, slots=True)
class _End:
    """The end of the chain: what the next record is given. Replaced as a whole, so that no interrupt can split it."""

    seq: int
    prev: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A line on its way to the sink."""

    line: bytes
    before: _End
    after: _End
    start: int | None
    """Size of the sink before the line; None when the sink cannot tell."""


class ChainWriter:
    """Appends records to one log, one at a time. It has the fields of `pipeline.ChainEnd`.

    Args:
        log_id: id of the log.
        sink: where the lines go; the writer closes it.
        key_id: id of the key for content, None when the content mode is `none`.
    """

    def __init__(self, log_id: str, sink: AuditSink, *, key_id: str | None) -> None:
        self.log_id = log_id
        self.opened_ns = time.monotonic_ns()
        self._sink = sink
        self._settling = sink if isinstance(sink, SettlingSink) else None
        self._lock = threading.Lock()
        self._logger = audit_logger(self, key_id=key_id)
        self._end = _End(0, FIRST_PREV)
        self._attempt: _Attempt | None = None
        self._refusal: str | None = None

    @property
    def seq(self) -> int:
        """Sequence number of the next record."""
        return self._end.seq

    @property
    def prev(self) -> str:
        """Leaf hash of the last record."""
        return self._end.prev

    def record(self, body: EventBody) -> Receipt:
        """Record one event, or raise and leave the log as it was.

        An interrupt (KeyboardInterrupt, SystemExit) passes through: the log then holds the whole record or none of it,
        and goes on, if the sink is a `SettlingSink`; with another sink it refuses everything from then on.

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
        before = self._end
        after = _End(before.seq + 1, leaf_hash(line))
        start = None if self._settling is None else self._settling.size
        # From here to the end an interrupt can break in anywhere; `_settle` finds out what it left, now or later.
        self._attempt = _Attempt(line, before, after, start)
        try:
            self._write(line)
            self._end = after
            if durable:
                self._sync()
        except AuditSinkError:
            self._attempt = None
            raise
        except BaseException:
            with suppress(AuditSinkError):
                self._settle()
            raise
        self._attempt = None
        return Receipt(self.log_id, before.seq, after.prev)

    def _send(self, event_type: str, fields: dict[str, object]) -> Receipt:
        if self._refusal is not None:
            raise self._sink_failure(self._refusal)
        self._settle()
        receipt = self._logger.record(event_type, fields)
        if not isinstance(receipt, Receipt):
            raise AuditError("The audit pipeline dropped a record.", where=self.log_id)
        return receipt

    def _write(self, line: bytes) -> None:
        try:
            self._sink.write(line)
        except AuditSinkError:
            raise
        except OSError as error:
            self._refusal = _UNKNOWN_END
            raise self._sink_failure(error.strerror) from error

    def _sync(self) -> None:
        try:
            self._sink.sync()
        except OSError as error:
            self._refusal = _UNSYNCED
            raise self._sink_failure(error.strerror) from error
        except AuditSinkError:
            self._refusal = _UNSYNCED
            raise

    def _settle(self) -> None:
        """Bring the chain's state in line with the sink after an interrupted write; nothing to do after any other.

        Raises:
            AuditSinkError: that is not possible, so the log refuses everything from now on.
        """
        attempt = self._attempt
        if attempt is None:
            return
        if attempt.start is None or self._settling is None:
            self._refusal = _UNKNOWN_END
            raise self._sink_failure(_UNKNOWN_END)
        try:
            kept = self._settling.settle(attempt.start, attempt.line)
        except AuditSinkError:
            self._refusal = _UNKNOWN_END
            raise
        self._end = attempt.after if kept else attempt.before
        self._attempt = None

    def _sink_failure(self, found: str | None) -> AuditSinkError:
        return AuditSinkError(
            "The audit record could not be written.", where=self.log_id, found=found, next_step=NEW_LOG
        )


_CLOSED = "the log is closed"
_UNKNOWN_END = "an earlier write failed or was interrupted, so the end of the log is unknown"
_UNSYNCED = "an earlier sync failed, so what the medium holds is unknown"
