"""`AuditLog`: one log per process and object, and no output without a record."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import secrets
import threading
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

import platformdirs
import structlog

from steerguard.audit.chain import LOG_SUFFIX
from steerguard.audit.events import EventBody, LogOpen
from steerguard.audit.fields import ContentMode
from steerguard.audit.keys import ContentKey
from steerguard.audit.sinks import NEW_LOG, AuditSink, FileSink
from steerguard.audit.writer import ChainWriter, Receipt
from steerguard.errors import AuditKeyError, AuditSinkError
from steerguard.version import __version__

KEY_FILE: Final = "content.key"


class AuditLog:
    """A hash-chained log of what the guard decided; open it with `AuditLog.open`.

    Threads may share one log.
    A forked child does not write to its parent's log: its first record opens a log of its own in the same directory.
    Other logs in the directory are never touched.
    """

    def __init__(
        self, directory: Path | None, *, key: ContentKey | None, content: ContentMode, sink: AuditSink | None
    ) -> None:
        self._directory = directory
        self._key = key
        self._content: ContentMode = content
        self._own_sink = sink
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
        sink: AuditSink | None = None,
    ) -> Self:
        """Open a new log and write its first record.

        Args:
            directory: where the file `<log id>.jsonl` goes; by default the user's log directory for steerguard.
            key: key for hashing content; by default the environment variable `STEERGUARD_AUDIT_KEY`,
                else the file `content.key` in the directory, which is made on first use.
            content: `hmac` records keyed hashes of prompts and answers, `none` only their sizes.
            sink: where the lines go instead of a file. Such a log ends at a fork: the child must open another.

        Raises:
            AuditSinkError: the log cannot be made.
            AuditKeyError: the key is missing, open to others or too short.
        """
        if sink is None or directory is not None:
            directory = _prepared(directory)
        if content == "none":
            key = None
        elif key is None:
            key = ContentKey.from_environment() or _directory_key(directory)
        return cls(directory, key=key, content=content, sink=sink)

    @property
    def log_id(self) -> str | None:
        """Id of the log in use; None in a forked child until its first record."""
        return None if self._writer is None else self._writer.log_id

    @property
    def path(self) -> Path | None:
        """The log file; None when the log has a sink of the caller's, and as `log_id`."""
        if self._directory is None or self._own_sink is not None or self._writer is None:
            return None
        return self._directory / f"{self._writer.log_id}{LOG_SUFFIX}"

    @property
    def key(self) -> ContentKey | None:
        """The key that content must be tagged with; None when the content mode is `none`."""
        return self._key

    @property
    def content(self) -> ContentMode:
        """What is recorded of prompts and answers."""
        return self._content

    def record(self, body: EventBody) -> Receipt:
        """Record one event; the caller releases its output only after this has returned.

        Refusals, bypasses and errors are on the medium when this returns; other records are with the operating system.

        Raises:
            AuditSinkError: the line could not be written, or the log is closed or broken.
            AuditError: the event or a context variable of the host does not fit the schema of audit records.
        """
        writer = self._writer
        if writer is None:
            with self._opening:
                writer = self._writer or self._open_writer()
        return writer.record(body)

    def close(self) -> None:
        """Write the last record, make the log durable and close it; a second call does nothing.

        An open log is closed in the same way when the object is collected and when the process ends in an orderly way;
        a failure is then not raised but reported once, as a warning to the logger `steerguard` of structlog.

        Raises:
            AuditSinkError: the last record could not be written.
        """
        self._closed = True
        if self._writer is not None:
            self._finalizer.detach()
            self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _open_writer(self) -> ChainWriter:
        if self._closed:
            raise _unavailable("the log is closed")
        log_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(8)}"
        if self._own_sink is not None:
            if self._forked_from is not None:
                raise _unavailable("the log was opened with its own sink before this process was forked")
            sink = self._own_sink
        elif self._directory is not None:
            sink = FileSink.create(self._directory / f"{log_id}{LOG_SUFFIX}")
        else:
            raise _unavailable("the log has neither a directory nor a sink")
        key_id = None if self._key is None else self._key.id
        writer = ChainWriter(log_id, sink, key_id=key_id)
        try:
            writer.record(
                LogOpen(
                    sdk=__version__,
                    python=platform.python_version(),
                    pid=os.getpid(),
                    content=self._content,
                    key=key_id,
                    forked_from=self._forked_from,
                    durability="never",
                    unsynced_us=None,
                    unsynced_records=None,
                    checkpoint_key=None,
                    previous=None,
                )
            )
        except BaseException:
            writer.abandon()
            raise
        self._finalizer = weakref.finalize(self, _close_unattended, writer)
        self._writer = writer
        return writer

    def _after_fork(self) -> None:
        """Leave the parent's log alone. Locks are replaced: another thread may have held them at the fork."""
        self._opening = threading.Lock()
        writer, self._writer = self._writer, None
        if writer is not None:
            self._finalizer.detach()
            self._forked_from = writer.log_id
            if self._own_sink is None:
                writer.abandon()


def _close_unattended(writer: ChainWriter) -> None:
    """Close a log whose owner is gone: at collection and at exit nobody can catch an error, so it is only reported."""
    try:
        writer.close()
    except Exception as error:  # noqa: BLE001 - a caller's sink can raise anything, and a finalizer must not
        # The host's logger may be gone already when the interpreter exits.
        with contextlib.suppress(Exception):
            structlog.get_logger("steerguard").warning(
                "audit_log_not_closed", log=writer.log_id, error=type(error).__name__
            )


_LOGS: weakref.WeakSet[AuditLog] = weakref.WeakSet()


@functools.cache
def _watch_forks() -> None:
    """Register, once per process and only when a log is in use, what a forked child does first."""
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for log in list(_LOGS):
        log._after_fork()  # noqa: SLF001 - same module


def _prepared(directory: Path | None) -> Path:
    directory = platformdirs.user_log_path("steerguard", appauthor=False) if directory is None else directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AuditSinkError(
            "The directory for audit logs cannot be made.", where=directory, found=error.strerror
        ) from error
    return directory.absolute()


def _directory_key(directory: Path | None) -> ContentKey:
    if directory is None:
        raise AuditKeyError(
            "A log with a sink of its own needs a key for hashing content.",
            next_step="Pass key=, or content='none' to record sizes only.",
        )
    path = directory / KEY_FILE
    if not path.exists():
        try:
            return ContentKey.create(path)
        except AuditKeyError:
            # Another process may have made it meanwhile; then that one is the key.
            if not path.exists():
                raise
    return ContentKey.from_file(path)


def _unavailable(found: str) -> AuditSinkError:
    return AuditSinkError("The audit log cannot take a record.", found=found, next_step=NEW_LOG)
