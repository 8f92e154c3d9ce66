"""The chain of one log: it gives each record its place, and the sink each line, and survives interrupts in between."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from steerguard.audit.evidence.chain_state import ChainState
from steerguard.audit.evidence.durable import NEW_LOG
from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.receipt import Receipt
from steerguard.audit.records.events import EventBody
from steerguard.audit.sinks import AuditSink, SettlingSink
from steerguard.audit.writing.pipeline import audit_logger
from steerguard.audit.writing.schedule import Schedule
from steerguard.errors import AuditError, AuditSinkError

if TYPE_CHECKING:
    from steerguard.audit.privacy.sealed_store import SealedStore

CLOSED: Final = "the log is closed"
UNKNOWN_END: Final = "an earlier write failed or was interrupted, so the end of the log is unknown"
UNSYNCED: Final = "an earlier sync failed, so what the medium holds is unknown"


class _Attempt(NamedTuple):
    """A line on its way to the sink."""

    line: bytes
    before: ChainState
    after: ChainState
    start: int | None
    """Size of the sink before the line; None when the sink cannot tell."""


class LineChain:
    """Appends records to a sink, one at a time, under the lock of its owner. It has the fields of `pipeline.ChainEnd`.

    Args:
        log_id: id of the log.
        sink: where the lines go.
        sealed: the side store that must be on the medium before a record is.
        schedule: is told what was written and synced.
        content: what may be recorded of prompts and answers.
        state: of the log so far.
    """

    def __init__(
        self,
        log_id: str,
        sink: AuditSink,
        sealed: SealedStore | None,
        schedule: Schedule,
        content: ContentRule,
        state: ChainState,
    ) -> None:
        self.log_id = log_id
        self.opened_ns = time.monotonic_ns()
        self.state = state
        self.refusal: str | None = None
        """Why the log takes no more records; None while it does."""
        self._sink = sink
        self._settling = sink if isinstance(sink, SettlingSink) else None
        self._sealed = sealed
        self._schedule = schedule
        self._attempt: _Attempt | None = None
        self._middle = threading.Lock()
        self.use_content(content)

    @property
    def seq(self) -> int:
        """Sequence number of the next record."""
        return self.state.seq

    @property
    def prev(self) -> str:
        """Leaf hash of the last record."""
        return self.state.prev

    @property
    def size(self) -> int:
        """Bytes of the sink; 0 when it cannot tell."""
        return 0 if self._settling is None else self._settling.size

    def use_content(self, content: ContentRule) -> None:
        """Let records hold this of prompts and answers from now on."""
        self._logger = audit_logger(self, content=content)

    def require_usable(self) -> None:
        """Find out what an interrupt left.

        Raises:
            AuditSinkError: that is not possible, or the log takes no more records.
        """
        self.require_open()
        if self._attempt is not None:
            self._settle()

    def alone(self) -> threading.Lock:
        """Return what a caller holds besides its owner's lock, which lets the same thread in again.

        Both are locks of the interpreter, so that no interrupt comes between a lock and its block.

        Raises:
            AuditError: this thread is in the middle of a record: a signal handler, a finalizer, a sink or a copy came
                back to its log. Waiting would never end.
        """
        if self._middle.locked():
            raise AuditError(
                "The audit log was called by the thread that it is just working for.",
                where=self.log_id,
                next_step="Use the log neither in signal handlers and finalizers nor in its own sinks, signers and copies.",
            )
        return self._middle

    def refuse(self, reason: str) -> None:
        """Take no more records; the first reason counts."""
        self.refusal = self.refusal or reason

    def require_open(self) -> None:
        """Go on if the log takes records.

        Raises:
            AuditSinkError: it takes no more.
        """
        if self.refusal is not None:
            raise self.failure(self.refusal)

    def send(self, body: EventBody) -> Receipt:
        """Send one event through the pipeline, which calls `append`.

        Raises:
            AuditSinkError: the line could not be written or made durable.
            AuditError: the event does not fit the schema of audit records.
        """
        try:
            receipt = self._logger.event(body)
        except TypeError as error:
            # The JSON encoder turns an interrupt in its callback into an error of its own.
            if error.__cause__ is None or isinstance(error.__cause__, Exception):
                raise
            raise error.__cause__ from None
        if not isinstance(receipt, Receipt):
            raise AuditError("The audit pipeline dropped a record.", where=self.log_id)
        return receipt

    def append(self, line: bytes, *, durable: bool) -> Receipt:
        """Write one line and move the chain on. Called by the pipeline, under the lock."""
        before = self.state
        after = before.after(line)
        start = None if self._settling is None else self._settling.size
        durable = self._schedule.mark(durable=durable)
        # From here to the end an interrupt can break in anywhere; `_settle` finds out what it left, now or later.
        self._attempt = _Attempt(line, before, after, start)
        try:
            self._write(line)
            self.state = after
            if durable:
                self.sync()
        except AuditSinkError:
            # Mostly the sink's own, after which it is as before or refuses by itself. But a signal handler that records
            # in another log can break in with one too, so the sink is asked all the same.
            with suppress(AuditSinkError):
                self._adopt(self._attempt)
            self._attempt = None
            raise
        except BaseException:
            with suppress(AuditSinkError):
                self._settle()
            raise
        self._attempt = None
        return Receipt(self.log_id, before.seq, after.prev)

    def _write(self, line: bytes) -> None:
        try:
            self._sink.write(line)
        except AuditSinkError:
            raise
        except Exception as error:
            if self._settling is not None:
                # Of a signal handler that broke in: the sink is asked what it left.
                raise
            # A sink of the caller's can raise anything.
            self.refusal = UNKNOWN_END
            raise self.failure(_named(error)) from error

    def sync(self) -> None:
        """Wait until everything written so far is on the medium, the sealed content first.

        Raises:
            AuditSinkError: the medium reported an error; the log takes no more records.
        """
        try:
            if self._sealed is not None:
                self._sealed.sync()
            self._sink.sync()
        except AuditSinkError:
            self.refusal = UNSYNCED
            raise
        except Exception as error:
            if self._settling is not None:
                # Of a signal handler that broke in: the next sync makes up for this one.
                raise
            self.refusal = UNSYNCED
            raise self.failure(_named(error)) from error
        self._schedule.synced()

    def _settle(self) -> None:
        """Bring the chain's state in line with the sink after an interrupted write; nothing to do after any other.

        Raises:
            AuditSinkError: that is not possible, so the log refuses everything from now on.
        """
        if self._attempt is None:
            return
        try:
            if self._settling is None:
                raise self.failure(UNKNOWN_END)
            self._adopt(self._attempt)
        except AuditSinkError:
            self.refuse(UNKNOWN_END)
            raise

    def _adopt(self, attempt: _Attempt | None) -> None:
        """Take over what a sink that can tell holds of an attempt."""
        if attempt is None or attempt.start is None or self._settling is None:
            return
        kept = self._settling.settle(attempt.start, attempt.line)
        self.state = attempt.after if kept else attempt.before
        self._attempt = None

    def failure(self, found: str | None) -> AuditSinkError:
        """Return the error for a record that was not written."""
        return AuditSinkError(
            "The audit record could not be written.",
            where=self.log_id,
            expected="a log that takes records",
            found=found,
            next_step=NEW_LOG,
        )


def _named(error: Exception) -> str:
    """Return what an error may say in a message: the system's words, else its class only."""
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
