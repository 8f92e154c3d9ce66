"""`AuditLog`: one log per process and object, and no output without a record."""

from __future__ import annotations

import functools
import os
import platform
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.durable import NEW_LOG
from steerguard.audit.evidence.layout import new_log_id
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.privacy.content import Redactor
from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.privacy.sealed_store import SealedStore
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.receipt import Receipt
from steerguard.audit.records.events import EventBody, LogOpen
from steerguard.audit.records.fields import ContentMode, SealedContent
from steerguard.audit.settings import CheckpointSettings, Durability, Rotation
from steerguard.audit.sinks import AuditSink
from steerguard.audit.writing.anchor import Anchor, CheckpointSigner
from steerguard.audit.writing.checkpoint_keys import checkpoint_signer
from steerguard.audit.writing.last_records import Recoverer
from steerguard.audit.writing.opened_files import OpenedFiles
from steerguard.audit.writing.opening import content_key, prepared_directory, required_sealing_key
from steerguard.audit.writing.previous import previous_log
from steerguard.audit.writing.recovery import recover_logs
from steerguard.audit.writing.unattended import close_unattended
from steerguard.audit.writing.writer import ChainWriter
from steerguard.audit.writing.writer_parts import WriterParts
from steerguard.errors import AuditError, AuditSinkError
from steerguard.signing.keys import Signer
from steerguard.version import __version__


class AuditLog:
    """A hash-chained, signed log of what the guard decided; open it with `AuditLog.open`.

    Threads may share one log. A forked child does not write to its parent's log: its first record opens a log of its own in the same directory.
    Other logs in the directory are never touched, but for those whose process died: these are finished (see `recovery`).
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        key: ContentKey | None,
        content: ContentMode,
        sealing: SealingKey | None,
        redactors: tuple[Redactor, ...],
        sink: AuditSink | None,
        signer: CheckpointSigner | None,
        checkpoints: CheckpointSettings,
        durability: Durability,
        rotation: Rotation,
    ) -> None:
        self._directory = directory
        self._key = key
        self._content: ContentMode = content
        self._sealing = sealing
        self._redactors = redactors
        self._own_sink = sink
        self._signer = signer
        self._checkpoints = checkpoints
        self._durability = durability
        self._rotation = rotation
        self._opening = threading.Lock()
        self._closed = False
        self._forked_from: str | None = None
        self._writer: ChainWriter | None = None
        self._open_writer()
        _watch_forks()
        _LOGS.add(self)

    @classmethod
    def open(
        cls,
        directory: Path | None = None,
        *,
        key: ContentKey | None = None,
        content: ContentMode = "hmac",
        sealing: SealingKey | None = None,
        redactors: Sequence[Redactor] = (),
        sink: AuditSink | None = None,
        checkpoints: CheckpointSettings = CheckpointSettings(),  # noqa: B008 - immutable
        durability: Durability = Durability(),  # noqa: B008 - immutable
        rotation: Rotation = Rotation(),  # noqa: B008 - immutable
    ) -> Self:
        """Open a new log, write its first record, and finish the logs of the directory whose processes died.

        Args:
            directory: where the log's files go (see `layout`); by default the user's log directory for steerguard.
            key: key for hashing content; by default the environment variable `STEERGUARD_AUDIT_KEY`,
                else the file `content.key` in the directory, which is made on first use.
            content: `hmac` records keyed hashes of prompts and answers, `none` only their sizes, `encrypted` keeps them
                sealed beside the log.
            sealing: key for sealed content; by default the environment variable `STEERGUARD_AUDIT_SEALING_KEY`.
            redactors: applied to prompts and answers, in order, before anything is made of them.
            sink: where the lines go instead of files. Such a log ends at a fork: the child must open another. It has
                no segments, and signs checkpoints only with a signer of the caller's.
            checkpoints: who signs, how often, and where the checkpoints go besides the directory.
            durability: when records are on the medium.
            rotation: when the log goes on in a new segment.

        Raises:
            AuditSinkError: the log cannot be made.
            AuditKeyError: a key is missing, open to others or malformed.
            AuditError: sealed content is asked for without a directory.
        """
        if sink is None or directory is not None:
            directory = prepared_directory(directory)
        if content == "encrypted":
            key, sealing = None, required_sealing_key(sealing, sink)
        elif content == "none":
            key = None
        elif key is None:
            key = content_key(directory)
        signer = checkpoint_signer(checkpoints, directory if sink is None else None)
        log = cls(
            directory,
            key=key,
            content=content,
            sealing=sealing if content == "encrypted" else None,
            redactors=tuple(redactors),
            sink=sink,
            signer=signer,
            checkpoints=checkpoints,
            durability=durability,
            rotation=rotation,
        )
        if sink is None and directory is not None and signer is not None and log.log_id is not None:
            recover_logs(directory, Recoverer(log=log.log_id, signer=signer, copies=checkpoints.copies))
        return log

    @property
    def log_id(self) -> str | None:
        """Id of the log in use; None in a forked child until its first record."""
        return None if self._writer is None else self._writer.log_id

    @property
    def path(self) -> Path | None:
        """The current segment; None when the log has a sink of the caller's, and as `log_id`."""
        segments = None if self._writer is None else self._writer.segments
        return None if segments is None else segments.path

    @property
    def directory(self) -> Path | None:
        """Where the log's files are; None when the log has a sink of the caller's and no directory."""
        return self._directory

    @property
    def key(self) -> ContentKey | None:
        """The key that content must be tagged with; None when the content mode is not `hmac`."""
        return self._key

    @property
    def content(self) -> ContentMode:
        """What is recorded of prompts and answers."""
        return self._content

    @property
    def redactors(self) -> tuple[Redactor, ...]:
        """What prompts and answers pass through before anything is made of them."""
        return self._redactors

    @property
    def checkpoint_key(self) -> NoteKey | None:
        """The key that signs checkpoints, as verifiers pin it; None when none are signed."""
        return None if self._signer is None else self._signer.key

    def record(self, body: EventBody) -> Receipt:
        """Record one event; the caller releases its output only after this has returned.

        Refusals, bypasses and errors are on the medium when this returns; other records are with the operating system,
        and on the medium as the log's durability says.

        Raises:
            AuditSinkError: the line could not be written, a checkpoint or a new segment that was due before it could
                not be made, or the log is closed or broken.
            AuditError: the event or a context variable of the host does not fit the schema of audit records.
        """
        return (self._writer or self._opened()).record(body)

    def seal(self, payload: bytes, *, req: str, row: int) -> SealedContent:
        """Encrypt the content of a row into the log's side store; the record that names it must follow.

        Args:
            payload: what only the holder of the sealing key may read.
            req: id of the request.
            row: number of the row.

        Raises:
            AuditSinkError: it could not be written.
            AuditError: the content mode is not `encrypted`.
        """
        return (self._writer or self._opened()).seal(payload, req=req, row=row)

    def checkpoint(self) -> SignedHead | None:
        """Sign everything recorded so far, now; None when the log signs no checkpoints.

        Raises:
            AuditSinkError: it could not be signed, or kept in every place.
        """
        return (self._writer or self._opened()).checkpoint()

    def rotate(self) -> None:
        """Sign everything recorded so far and go on in a new segment, now.

        Raises:
            AuditSinkError: that failed; it is tried again before the next record if it was half done.
            AuditError: the log has a sink of the caller's.
        """
        (self._writer or self._opened()).rotate()

    def rotate_content_key(self, new: ContentKey, *, destroyed: bool = False) -> None:
        """Tag content with another key from now on; content that was tagged under the old one meanwhile is refused.

        Args:
            new: the key.
            destroyed: whether the old key was destroyed, so that nobody can link what it tagged any more.

        Raises:
            AuditSinkError: the change could not be recorded, and the old key stays.
            AuditError: the content mode is not `hmac`.
        """
        old = self._key
        if old is None:
            raise AuditError(
                "This log has no key for hashing content.", expected="content mode 'hmac'", found=self._content
            )
        writer = self._writer or self._opened()
        writer.rotate_content_key(old.id, new.id, destroyed=destroyed, then=lambda: setattr(self, "_key", new))

    def rotate_checkpoint_key(self, signer: Signer, name: str | None = None) -> None:
        """Sign with another key from now on; a checkpoint with the signatures of both is made at once.

        Args:
            signer: the new key.
            name: the name that it signs under; by default the one so far.

        Raises:
            AuditSinkError: the change could not be recorded or signed.
            AuditKeyError: the name is not allowed.
            AuditError: the log signs no checkpoints.
        """
        chosen = CheckpointSigner(self._checkpoints.name if name is None else name, signer)
        writer = self._writer or self._opened()
        writer.rotate_checkpoint_key(chosen, then=lambda: setattr(self, "_signer", chosen))

    def close(self) -> None:
        """Write the last record between two checkpoints, make the log durable and finished, and close it.

        A second call does nothing. An open log is closed in the same way when the object is collected and when the
        process ends in an orderly way; a failure is then not raised but reported once, as a warning to the logger
        `steerguard` of structlog.

        Raises:
            AuditSinkError: the last records could not be written; the next process that opens a log finishes this one.
        """
        self._closed = True
        if self._writer is not None:
            self._writer.close()
            # An interrupt before this line leaves the rest to the end of the process.
            self._finalizer.detach()
            self._writer.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _opened(self) -> ChainWriter:
        """Return the writer, opened if this is a forked child."""
        with self._opening:
            return self._writer or self._open_writer()

    def _open_writer(self) -> ChainWriter:
        if self._closed:
            raise _unavailable("the log is closed")
        if self._own_sink is not None and self._forked_from is not None:
            raise _unavailable("the log was opened with its own sink before this process was forked")
        log_id = new_log_id()
        first = LogOpen(
            sdk=__version__,
            python=platform.python_version(),
            pid=os.getpid(),
            content=self._content,
            key=None if self._key is None else self._key.id,
            forked_from=self._forked_from,
            durability=self._durability.mode,
            unsynced_us=self._durability.unsynced_us,
            unsynced_records=self._durability.unsynced_records,
            checkpoint_key=None if self._signer is None else self._signer.key.text,
            **previous_log(None if self._own_sink is not None else self._directory, self.checkpoint_key),
        )
        files, sink = None, self._own_sink
        if sink is None:
            if self._directory is None:
                raise _unavailable("the log has neither a directory nor a sink")
            files = OpenedFiles.create(self._directory, log_id)
            sink = files.segments
        writer = None
        try:
            writer = ChainWriter(
                WriterParts(
                    log_id=log_id,
                    sink=sink,
                    anchor=self._anchor(log_id, files),
                    sealed=self._sealed_store(log_id),
                    content=self._content_rule(),
                    durability=self._durability,
                    rotation=self._rotation,
                    checkpoints=self._checkpoints,
                )
            )
            writer.begin(first)
            self._finalizer = weakref.finalize(self, close_unattended, writer, os.getpid())
        except BaseException:
            try:
                if writer is not None:
                    writer.stop()
                if files is not None:
                    # The writer holds the lock: nobody may take the log over while its files go.
                    files.discard()
            finally:
                if writer is not None:
                    writer.abandon()
            raise
        self._writer = writer
        return writer

    def _content_rule(self) -> ContentRule:
        if self._content == "hmac":
            return ContentRule(mode="hmac", key_id=None if self._key is None else self._key.id)
        return ContentRule(mode=self._content, key_id=None if self._sealing is None else self._sealing.id)

    def _anchor(self, log_id: str, files: OpenedFiles | None) -> Anchor | None:
        if self._signer is None:
            return None
        return Anchor(log_id, self._signer, None if files is None else files.checkpoints, self._checkpoints.copies)

    def _sealed_store(self, log_id: str) -> SealedStore | None:
        if self._sealing is None or self._directory is None:
            return None
        store = SealedStore(self._directory, self._sealing)
        store.begin(log_id, 0)
        return store

    def _after_fork(self) -> None:
        """Leave the parent's log alone. Locks are replaced: another thread may have held them at the fork."""
        self._opening = threading.Lock()
        writer, self._writer = self._writer, None
        if writer is not None:
            self._finalizer.detach()
            self._forked_from = writer.log_id
            if self._own_sink is None:
                writer.abandon(forked=True)


_LOGS: weakref.WeakSet[AuditLog] = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    """Register, once per process and only when a log is in use, what a forked child does first."""
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for log in list(_LOGS):
        log._after_fork()  # noqa: SLF001 - same module


def _unavailable(found: str) -> AuditSinkError:
    summary = "The audit log cannot take a record."
    return AuditSinkError(summary, where="AuditLog", expected="an open log", found=found, next_step=NEW_LOG)
