"""The last records of a log whose process died, written by the process that found it; the caller holds the log's lock."""

from __future__ import annotations

import hashlib
import os
import platform
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steerguard.audit.copies import CheckpointCopy
from steerguard.audit.evidence.chain_state import EMPTY_CHAIN, ChainState
from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.checkpoint_file import CheckpointFile
from steerguard.audit.evidence.durable import sync_directory, sync_file
from steerguard.audit.evidence.layout import FINISHED_MODE, OPEN_MODE, LogFiles, segment_name
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.privacy.content_rule import ContentRule
from steerguard.audit.records.events import EventBody, LogKeyRotate, LogOpen, LogRecovered, LogRotate
from steerguard.audit.sinks import FileSink
from steerguard.audit.writing.anchor import Anchor, CheckpointSigner
from steerguard.audit.writing.survived import Survived, damaged, survived
from steerguard.audit.writing.writer import ChainWriter
from steerguard.audit.writing.writer_parts import WriterParts
from steerguard.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Recoverer:
    """Who finishes the logs of others."""

    log: str
    """Id of its own log."""
    signer: CheckpointSigner
    copies: tuple[CheckpointCopy, ...] = ()


class LastRecords:
    """Ends one log.

    Args:
        files: of the log.
        own: its file of checkpoints, locked; what follows its last whole note is cut off.
        notes: the whole notes.
        recoverer: who does it.
    """

    def __init__(self, files: LogFiles, own: CheckpointFile, notes: Sequence[SignedHead], recoverer: Recoverer) -> None:
        self._files = files
        self._own = own
        self._notes = notes
        self._by = recoverer
        self._log = files.log
        self._directory = own.path.parent

    def write(self, torn_note: bytes) -> None:
        """Set aside what was written in part, write the last records, sign them and finish the log.

        Args:
            torn_note: what follows the last whole note.

        Raises:
            AuditVerificationError: the log is damaged; nothing was changed.
            AuditSinkError: something could not be written; the next process goes on from there.
            OSError: as AuditSinkError.
        """
        number, path, left, due = self._survey()
        signed = self._notes[-1].head.size if self._notes else 0
        if signed > left.state.seq:
            raise damaged(path, f"{left.state.seq} records where {signed} were signed")
        mono = _next_mono(left.last or left.time_of, path)
        closed = left.last is not None and left.last["type"] == "log.close"
        key_differs = self._key_differs(left)
        if closed and signed < left.state.seq and (left.torn or key_differs or not left.ended_before_last):
            # An end that its process did not sign may have been put there, and a torn one nobody can sign: it is ended anew.
            left.set_last_aside()
            closed = False
        aside = self._set_aside(left, torn_note)
        if path.exists():
            path.chmod(OPEN_MODE)
            sink = FileSink.resume(path, left.size, left.digest)
        else:
            sink = FileSink.create(path)
        writer = self._writer(sink, left.state, mono)
        try:
            self._own.cut()
            if not closed:
                for body in (*due, *self._missing(left, aside, len(torn_note), key_differs=key_differs)):
                    writer.record(body)
            self._retire(number)
            os.fchmod(sink.descriptor, FINISHED_MODE)
            writer.finish() if closed else writer.close()
        finally:
            writer.abandon()

    def _survey(self) -> tuple[int, Path, Survived, tuple[EventBody, ...]]:
        """Return number, path and content of the segment to end, and the records that it must begin with."""
        heads = [note.head for note in self._notes]
        if not self._files.segments:
            if heads:
                raise damaged(self._own.path, "checkpoints over records that are not there")
            return 0, self._directory / segment_name(self._log, 0), Survived(EMPTY_CHAIN), (self._opening(),)
        number, path = self._files.segments[-1]
        left = survived(path, self._log, number, heads)
        if left.last is not None:
            return number, path, left, ()
        if number == 0:
            return number, path, left, (self._opening(),)
        return number, path, *self._begun(number, path, left)

    def _begun(self, number: int, path: Path, left: Survived) -> tuple[Survived, tuple[EventBody, ...]]:
        """Return what a segment continues that was made and not begun: the end of the one before."""
        before = dict(self._files.segments).get(number - 1)
        if before is None:
            raise damaged(path, "no record, and the segment before it is missing")
        previous = survived(before, self._log, number - 1, [note.head for note in self._notes])
        signed = self._notes[-1].head.size if self._notes else 0
        if previous.torn or previous.last is None or previous.state.seq != signed:
            raise damaged(
                before, f"a segment that was not signed to its end before the next one was made: {signed} records"
            )
        state = previous.state
        first = LogRotate(
            segment=number,
            previous=before.name,
            previous_bytes=previous.size,
            previous_digest=f"sha256:{previous.digest.hexdigest()}",
            size=state.seq,
            root=state.root.hex(),
            peaks=tuple(peak.hex() for peak in state.peaks),
        )
        return Survived(state, torn=left.torn, time_of=previous.last, key=previous.key), (first,)

    def _opening(self) -> LogOpen:
        """Return the first record of a log whose process died before it wrote one."""
        return LogOpen(
            sdk=__version__,
            python=platform.python_version(),
            pid=os.getpid(),
            content="none",
            key=None,
            forked_from=None,
            durability="always",
            unsynced_us=None,
            unsynced_records=None,
            checkpoint_key=self._by.signer.key.text,
            previous=None,
            previous_size=None,
            previous_root=None,
        )

    def _key_in_force(self, left: Survived) -> tuple[str, str] | None:
        """Return name and hash of the key that the log says it is signed with; None where it says nothing yet."""
        if left.key is not None:
            key = NoteKey.parse(left.key)
            return key.name, key.hash
        if self._notes:
            signature = self._notes[-1].note.signatures[-1]
            return signature.name, signature.hash
        return None

    def _key_differs(self, left: Survived) -> bool:
        mine = self._by.signer.key
        return left.state.seq > 0 and self._key_in_force(left) != (mine.name, mine.hash)

    def _missing(self, left: Survived, aside: Path | None, torn_note: int, *, key_differs: bool) -> Sequence[EventBody]:
        bodies: list[EventBody] = []
        if key_differs:
            in_force = self._key_in_force(left)
            mine = self._by.signer.key
            bodies.append(
                LogKeyRotate(
                    purpose="checkpoint",
                    previous="none" if in_force is None else in_force[1],
                    key=mine.hash,
                    checkpoint_key=mine.text,
                    destroyed=False,
                )
            )
        if not left.ended:
            content = b"" if aside is None else aside.read_bytes()
            bodies.append(
                LogRecovered(
                    by=self._by.log,
                    torn_bytes=max(0, len(content) - torn_note),
                    torn_digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
                    torn_file=None if aside is None else aside.name,
                    torn_note_bytes=torn_note,
                )
            )
        return bodies

    def _set_aside(self, left: Survived, torn_note: bytes) -> Path | None:
        """Return the file that holds the torn bytes and the torn note, made durable before they are cut off."""
        content = left.torn + torn_note
        unnamed = [path for path in self._files.torn if path.name not in left.named]
        for path in reversed(unnamed):
            # A recovery that was cut short made it; it may have cut off the bytes already.
            if not content or path.read_bytes() == content:
                return path
        if not content:
            return None
        number = 1 + max((int(path.name.rpartition("-")[2]) for path in self._files.torn), default=0)
        path = self._directory / f"{self._log}.torn-{number}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, OPEN_MODE)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.fchmod(descriptor, FINISHED_MODE)
            sync_file(descriptor)
            sync_directory(self._directory)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)
        return path

    def _writer(self, sink: FileSink, state: ChainState, mono: int) -> ChainWriter:
        return ChainWriter(
            WriterParts(
                log_id=self._log,
                sink=sink,
                content=ContentRule(mode="none"),
                anchor=Anchor(self._log, self._by.signer, self._own, self._by.copies, made=self._own.last),
            ),
            state,
            mono_us=mono,
        )

    def _retire(self, last: int) -> None:
        """Make the segments before the last one read-only, where their process did not come to it."""
        for number, path in self._files.segments:
            if number < last and stat.S_IMODE(path.lstat().st_mode) != FINISHED_MODE:
                path.chmod(FINISHED_MODE)


def _next_mono(last: dict[str, Any] | None, path: Path) -> int:
    """Return the time of the log's own clock in microseconds: it went on as the wall clock did, and never back."""
    if last is None:
        return 0
    try:
        passed = datetime.now(UTC) - datetime.fromisoformat(str(last["t"]))
        return int(last["mono"]) + max(0, round(passed.total_seconds() * 1e6))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise damaged(path, "a last record that does not say when it was written") from None
