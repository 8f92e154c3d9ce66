"""One log being written: its chain state, its lock, its sink, its checkpoints and its segments."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from steerguard.audit.evidence.chain_state import EMPTY_CHAIN, ChainState
from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.receipt import Receipt
from steerguard.audit.records.events import Checkpoint, EventBody, LogClose, LogKeyRotate, LogRotate
from steerguard.audit.records.fields import SealedContent
from steerguard.audit.writing.anchor import CheckpointSigner
from steerguard.audit.writing.background_sync import BackgroundSync
from steerguard.audit.writing.keeper import Keeper
from steerguard.audit.writing.line_chain import CLOSED, UNSYNCED, LineChain
from steerguard.audit.writing.schedule import Schedule
from steerguard.audit.writing.segments import Segments
from steerguard.audit.writing.writer_parts import WriterParts
from steerguard.errors import AuditError, AuditSinkError


class ChainWriter:
    """Appends records to one log, one at a time, and does what is due before each.

    What must come before the next record, such as the rest of an interrupted rotation, is kept in `_first` and
    `_change` and is done before anything else; each step of it can be begun again.

    Args:
        parts: what it is made of.
        state: the state of the chain and the tree, where the sink continues a log.
        mono_us: time of the log's own clock, where the sink continues a log.
    """

    def __init__(self, parts: WriterParts, state: ChainState = EMPTY_CHAIN, *, mono_us: int = 0) -> None:
        self._sink = parts.sink
        self._segments = parts.sink if isinstance(parts.sink, Segments) else None
        self._anchor = parts.anchor
        self._sealed = parts.sealed
        self._lock = threading.RLock()
        self._keeper = Keeper(self)
        self._schedule = Schedule(
            parts.durability,
            None if parts.anchor is None else parts.checkpoints,
            None if self._segments is None else parts.rotation,
            wake=self._keeper.wake,
            seq=state.seq,
        )
        self._chain = LineChain(parts.log_id, parts.sink, parts.sealed, self._schedule, parts.content, state)
        self._chain.opened_ns -= 1000 * mono_us
        self._first: LogRotate | None = None
        self._change: tuple[int, Callable[[], None]] | None = None
        self._background = None if self._segments is None else BackgroundSync(self._segments, parts.sealed)

    @property
    def log_id(self) -> str:
        """Id of the log."""
        return self._chain.log_id

    @property
    def segments(self) -> Segments | None:
        """The files; None when the sink is another."""
        return self._segments

    def begin(self, first: EventBody) -> None:
        """Write the first record; a log that cannot begin takes no other, nor a checkpoint that is due.

        Raises:
            AuditSinkError: the line could not be written; the rest is for `abandon`.
        """
        with self._lock, self._chain.alone():
            try:
                self._chain.send(first)
            except BaseException:
                self._chain.refuse(CLOSED)
                raise

    def record(self, body: EventBody) -> Receipt:
        """Record one event, or raise and leave the log as it was.

        An interrupt (KeyboardInterrupt, SystemExit) passes through: the log then holds the whole record or none of it,
        and goes on, if the sink is a `SettlingSink`; with another sink it refuses everything from then on.

        Raises:
            AuditSinkError: the line could not be written, something that was due before it could not be done, or the
                log is closed or broken.
            AuditError: the event does not fit the schema of records, or this thread is in the middle of another.
        """
        with self._lock, self._chain.alone():
            self._prepare()
            return self._chain.send(body)

    def seal(self, payload: bytes, *, req: str, row: int) -> SealedContent:
        """Encrypt content into the side store of the current segment.

        Raises:
            AuditSinkError: it could not be written, or the log takes no more records.
            AuditError: the log has no side store.
        """
        if self._sealed is None:
            raise AuditError("This log seals no content.", where=self.log_id, expected="content mode 'encrypted'")
        # Under the lock that records take: whoever holds it may wait for the side store.
        with self._lock, self._chain.alone():
            self._chain.require_open()
            return self._sealed.append(payload, req=req, row=row)

    def checkpoint(self) -> SignedHead | None:
        """Sign everything recorded so far; None when the log has no signer.

        Raises:
            AuditSinkError: it could not be signed, or kept in every place.
        """
        with self._lock, self._chain.alone():
            self._prepare()
            return self._checkpoint()

    def rotate(self) -> None:
        """Go on in a new segment.

        Raises:
            AuditSinkError: the segment cannot be made, or the one so far cannot be signed.
            AuditError: the log has no segments.
        """
        with self._lock, self._chain.alone():
            if self._segments is None:
                raise AuditError("A log with a sink of its own has no segments.", where=self.log_id)
            self._prepare()
            self._rotate(self._segments)

    def rotate_content_key(self, previous: str, key_id: str, *, destroyed: bool, then: Callable[[], None]) -> None:
        """Record that content is tagged with another key from now on, and refuse tags under the old one.

        Args:
            previous: id of the key so far.
            key_id: id of the new one.
            destroyed: whether the key so far was destroyed.
            then: called once the record is in the log, perhaps more than once.

        Raises:
            AuditSinkError: the record could not be written.
        """
        body = LogKeyRotate(purpose="content", previous=previous, key=key_id, checkpoint_key=None, destroyed=destroyed)

        def put_in_force() -> None:
            self._chain.use_content(ContentRule(mode="hmac", key_id=key_id))
            then()

        with self._lock, self._chain.alone():
            self._prepare()
            self._change_with(body, put_in_force)

    def rotate_checkpoint_key(self, signer: CheckpointSigner, *, then: Callable[[], None]) -> None:
        """Record that another key signs from now on, and sign everything so far with both.

        Args:
            signer: the new key.
            then: called once the record is in the log, perhaps more than once.

        Raises:
            AuditSinkError: the record or the checkpoint could not be written. If only the checkpoint could not, the
                new key is in force and the checkpoint is due before the next record.
            AuditError: the log has no signer.
        """
        anchor = self._anchor
        if anchor is None:
            raise AuditError("This log signs no checkpoints.", where=self.log_id)

        def put_in_force() -> None:
            anchor.introduce(signer)
            self._schedule.demand()
            then()

        with self._lock, self._chain.alone():
            self._prepare()
            previous, key = anchor.key, signer.key
            body = LogKeyRotate(
                purpose="checkpoint", previous=previous.hash, key=key.hash, checkpoint_key=key.text, destroyed=False
            )
            self._change_with(body, put_in_force)
            self._checkpoint()

    def close(self) -> None:
        """Write `log.close` between two checkpoints, make the log durable and finished, and release it.

        A second call does nothing.

        Raises:
            AuditSinkError: something of this failed; the log is released all the same, and the next process that opens
                a log in the directory finishes it.
        """
        with self._lock, self._chain.alone():
            try:
                if self._chain.refusal is None:
                    self._ready()
                    self._sign()
                    self._chain.send(LogClose())
                    self._finish()
            finally:
                self.abandon()

    def finish(self) -> None:
        """Sign and release a log that `log.close` is the last record of.

        Raises:
            AuditSinkError: as `close`.
        """
        with self._lock, self._chain.alone():
            try:
                self._finish()
            finally:
                self.abandon()

    def close_in_background(self, then: Callable[[], None]) -> bool:
        """When the caller runs in the background thread, which may hold the lock, let that thread call `then` at its end.

        Returns:
            Whether it does.
        """
        if self._keeper.is_current:
            self._keeper.end_with(then)
            return True
        return False

    def join(self) -> None:
        """Wait for the background thread of a closed log."""
        self._keeper.join()

    def stop(self) -> None:
        """Take no more records, and wait until the background thread is at none."""
        with self._lock:
            self._chain.refuse(CLOSED)
        self._keeper.stop()

    def abandon(self, *, forked: bool = False) -> None:
        """Release the files without a record.

        Args:
            forked: this is a child, and the log still belongs to its parent. Then no lock may be touched: a thread of
                the parent may have held it at the fork, and nobody here lets go of it.
        """
        if forked:
            self._chain.refuse(CLOSED)
            if self._background is not None:
                self._background.abandon()
            if self._sealed is not None:
                self._sealed.abandon()
        else:
            self.stop()
        self._close_files()

    def seconds_left(self) -> float | None:
        """Return how long the background thread may sleep; None when it need not wake by itself."""
        return self._schedule.seconds_left() if self._chain.refusal is None else None

    def tend(self) -> None:
        """Do what fell due by time, in the background thread; what fails is due, and raised, at the next record."""
        try:
            self._sync_in_background()
            with self._lock, self._chain.alone():
                if self._chain.refusal is None and self._schedule.in_background().sign:
                    self._ready()
                    self._checkpoint()
        except AuditError as error:
            self._schedule.postpone()
            structlog.get_logger("steerguard").warning(
                "audit_log_not_kept", log=self.log_id, error=error.code, found=str(error.found)
            )

    def _sync_in_background(self) -> None:
        """Sync outside of the lock, so that nobody who records is held up."""
        with self._lock, self._chain.alone():
            if self._chain.refusal is not None or not any(self._schedule.in_background()):
                return
            background = self._background
            if background is None or not background.begin():
                self._chain.sync()
                return
            # What is written from now on is another first unsynced record.
            self._schedule.synced()
        try:
            background.run()
        except AuditSinkError:
            with self._lock, self._chain.alone():
                self._chain.refuse(UNSYNCED)
            raise

    def _ready(self) -> None:
        """Finish what was interrupted.

        Raises:
            AuditSinkError: that failed, or the log takes no more records.
        """
        self._chain.require_usable()
        if self._change is not None:
            self._finish_change()
        if self._first is not None:
            self._begin_segment()

    def _prepare(self) -> None:
        """Do everything that must come before the next record."""
        self._ready()
        size = self._chain.size
        if self._schedule.is_due(self._chain.state.seq, size):
            if self._segments is not None and self._schedule.rotation_due(size):
                self._rotate(self._segments)
            if self._schedule.checkpoint_due(self._chain.state.seq):
                self._checkpoint()

    def _finish(self) -> None:
        self._sign()
        if self._segments is not None:
            self._segments.finish()
        if self._anchor is not None:
            self._anchor.finish()

    def _close_files(self) -> None:
        """Close every file, whatever fails; the lock goes last."""
        try:
            if self._sealed is not None:
                self._sealed.close()
        finally:
            try:
                self._sink.close()
            finally:
                if self._anchor is not None:
                    self._anchor.close()

    def _sign(self) -> SignedHead | None:
        """Make everything so far durable, and sign it."""
        if self._anchor is None:
            return None
        state = self._chain.state
        self._chain.sync()
        head = self._anchor.anchor(state)
        self._schedule.covered(state.seq)
        return head

    def _checkpoint(self) -> SignedHead | None:
        signed = self._sign()
        if signed is None or self._anchor is None:
            return None
        body = Checkpoint(
            size=signed.head.size,
            root=signed.head.root.hex(),
            signed_by=tuple(one.hash for one in signed.note.signatures),
            copies=self._anchor.copies,
        )
        try:
            self._chain.send(body)
        except BaseException:
            self._schedule.demand()
            raise
        # The record about the checkpoint needs no checkpoint of its own.
        self._schedule.covered(self._chain.state.seq)
        return signed

    def _rotate(self, segments: Segments) -> None:
        self._sign()
        state = self._chain.state
        self._first = LogRotate(
            segment=segments.number + 1,
            previous=segments.path.name,
            previous_bytes=segments.size,
            previous_digest=f"sha256:{segments.digest}",
            size=state.seq,
            root=state.root.hex(),
            peaks=tuple(peak.hex() for peak in state.peaks),
        )
        self._begin_segment()

    def _begin_segment(self) -> None:
        """Carry a rotation to its end; every step is left out where it was done before."""
        segments, first = self._segments, self._first
        if segments is None or first is None:
            return
        if segments.number < first.segment:
            segments.advance()
        if segments.size == 0:
            self._chain.send(first)
        segments.retire()
        if self._sealed is not None:
            self._sealed.begin(self.log_id, segments.number)
        self._schedule.rotated()
        self._first = None

    def _change_with(self, body: EventBody, put_in_force: Callable[[], None]) -> None:
        """Write a record and do what it says, in one: after an interrupt both or none of it hold."""
        self._change = (self._chain.seq, put_in_force)
        self._chain.send(body)
        self._finish_change()

    def _finish_change(self) -> None:
        if self._change is not None:
            seq, put_in_force = self._change
            if self._chain.seq > seq:
                put_in_force()
            self._change = None
