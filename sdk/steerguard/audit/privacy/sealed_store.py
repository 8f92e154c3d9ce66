"""Where one log puts encrypted content: one ciphertext and one slot per row, both or neither."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steerguard.audit.evidence.durable import NEW_LOG
from steerguard.audit.evidence.layout import OPEN_MODE, sealed_name, slot_keys_name
from steerguard.audit.privacy.sealed_slots import MAX_REQUEST_BYTES, SLOT_BYTES, Place, Slot, locked
from steerguard.audit.privacy.sealing import DATA_KEY_BYTES, NONCE_BYTES, SealingKey
from steerguard.audit.records.fields import SealedContent, is_identifier
from steerguard.canonical import sha256_hex
from steerguard.errors import AuditError, AuditSinkError

MAX_PAYLOAD_BYTES: Final = 2**30
MAX_ROWS: Final = 2**32


@dataclass(slots=True)
class _Segment:
    """The two files of one segment. What lies beyond `bytes` and `slots` is of a row that was not kept."""

    log: str
    number: int
    sealed: int | None = None
    keys: int | None = None
    bytes: int = 0
    slots: int = 0
    unsure: bool = False
    """Whether a row may lie there in part."""


class SealedStore:
    """The encrypted content of one log, in files of its directory that are made with the first row.

    Threads may share a store. An eraser in another process may work on its files of keys at any time.

    Args:
        directory: where the log is.
        key: wraps the data key of every row.
    """

    def __init__(self, directory: Path, key: SealingKey) -> None:
        self._directory = directory
        self._key = key
        self._lock = threading.Lock()
        self._segment: _Segment | None = None
        self._broken: str | None = None

    @property
    def key_id(self) -> str:
        """Id of the sealing key."""
        return self._key.id

    def begin(self, log: str, segment: int) -> None:
        """Send rows to the files of this segment from now on; those of the segment before are synced and closed.

        Naming the segment in use again changes nothing.

        Raises:
            AuditSinkError: the files before could not be synced; they stay in use.
        """
        with self._lock:
            self._require_usable()
            before = self._segment
            if before is not None and (before.log, before.number) == (log, segment):
                return
            if before is not None:
                self._sync(before)
            self._segment = _Segment(log, segment)
            if before is not None:
                self._close(before)

    def append(self, payload: bytes, *, req: str, row: int) -> SealedContent:
        """Encrypt the content of a row and write it with its wrapped key; the record of the row must follow.

        Args:
            payload: at most 2^30 bytes.
            req: id of the request, as a record can hold it: at most 128 characters.
            row: from 0 to 2^32 - 1.

        Raises:
            AuditSinkError: it could not be written; nothing of it can be read later.
            AuditKeyError: the key service failed.
            AuditError: the payload is too long, or no record could name the row: it could not be erased either.
        """
        if len(payload) > MAX_PAYLOAD_BYTES or not is_identifier(req) or not 0 <= row < MAX_ROWS:
            raise AuditError(
                "This content cannot be sealed.",
                expected=f"at most {MAX_PAYLOAD_BYTES} bytes, a row below {MAX_ROWS}, and a request id of 1 to "
                f"{MAX_REQUEST_BYTES} letters, digits and . _ : / @ + -",
                found=f"{len(payload)} bytes, row {row}, and an id of {len(req)} characters",
            )
        with self._lock:
            self._require_usable()
            segment = self._segment
            if segment is None:
                raise self._failure("the store is closed, or its log has not begun")
            self._settle(segment)
            file = sealed_name(segment.log, segment.number)
            place = Place(segment.log, file, segment.slots, req, row)
            data_key, nonce = secrets.token_bytes(DATA_KEY_BYTES), secrets.token_bytes(NONCE_BYTES)
            ciphertext = AESGCM(data_key).encrypt(nonce, payload, place.of_content)
            slot = Slot(
                req=req,
                row=row,
                offset=segment.bytes,
                length=len(ciphertext),
                nonce=nonce,
                wrapped=self._key.wrap(data_key, place.of_data_key),
            )
            self._write(segment, ciphertext, slot)
            return SealedContent(
                file=file,
                slot=segment.slots - 1,
                bytes=len(ciphertext),
                digest=f"sha256:{sha256_hex(ciphertext)}",
                key=self._key.id,
            )

    def sync(self) -> None:
        """Return when all rows would survive a power cut; the log calls it before it makes their records durable.

        Raises:
            AuditSinkError: the medium reported an error; the store takes no more rows.
        """
        with self._lock:
            self._require_usable()
            if self._segment is not None:
                self._sync(self._segment)

    def close(self) -> None:
        """Close the files; a second call does nothing. The log has synced before.

        What an interrupted row left at the end stays there: readers pass over a slot that is not whole.
        """
        with self._lock:
            segment, self._segment = self._segment, None
            if segment is not None:
                self._close(segment)

    def abandon(self) -> None:
        """Leave the files to the parent of this forked process; `begin` starts those of the child's own log."""
        # Another thread may have held the lock at the fork.
        self._lock = threading.Lock()
        segment, self._segment = self._segment, None
        self._broken = None
        if segment is not None:
            self._close(segment)

    def _write(self, segment: _Segment, ciphertext: bytes, slot: Slot) -> None:
        try:
            segment.sealed = self._opened(segment.sealed, sealed_name(segment.log, segment.number))
            segment.keys = self._opened(segment.keys, slot_keys_name(segment.log, segment.number))
            segment.unsure = True
            _whole(segment.sealed, ciphertext, segment.bytes)
            _whole(segment.keys, slot.content, segment.slots * SLOT_BYTES)
        except OSError as error:
            if segment.unsure:
                self._settle(segment)
            raise self._failure(error.strerror) from error
        # An interrupt before this line leaves a row that no record names; the next one takes its place.
        segment.bytes, segment.slots, segment.unsure = segment.bytes + len(ciphertext), segment.slots + 1, False

    def _opened(self, descriptor: int | None, name: str) -> int:
        """Open the file of a new segment, which this log alone writes; an empty one is of an interrupted try."""
        if descriptor is not None:
            return descriptor
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._directory / name, flags, OPEN_MODE)
        try:
            _require_empty(descriptor)
            folder = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _settle(self, segment: _Segment) -> None:
        """Cut off what an interrupted or failed write left behind."""
        if not segment.unsure:
            return
        try:
            if segment.keys is not None:
                # An eraser holds this lock while it looks at a slot and overwrites it.
                with locked(segment.keys):
                    os.ftruncate(segment.keys, segment.slots * SLOT_BYTES)
            if segment.sealed is not None:
                os.ftruncate(segment.sealed, segment.bytes)
        except OSError as error:
            self._broken = "a row that was written in part could not be cut off"
            raise self._failure(error.strerror) from error
        segment.unsure = False

    def _sync(self, segment: _Segment) -> None:
        try:
            for descriptor in (segment.sealed, segment.keys):
                if descriptor is not None:
                    _SYNC(descriptor)
        except OSError as error:
            self._broken = "an earlier sync failed"
            raise self._failure(error.strerror) from error

    def _close(self, segment: _Segment) -> None:
        sealed, keys = segment.sealed, segment.keys
        segment.sealed = segment.keys = None
        try:
            try:
                if sealed is not None:
                    os.close(sealed)
            finally:
                if keys is not None:
                    os.close(keys)
        except OSError as error:
            raise self._failure(error.strerror) from error

    def _require_usable(self) -> None:
        if self._broken is not None:
            raise self._failure(self._broken)

    def _failure(self, found: str | None) -> AuditSinkError:
        return AuditSinkError(
            "The encrypted content of a row could not be written.",
            where=self._directory,
            expected="the whole row in its files",
            found=found,
            next_step=NEW_LOG if self._broken else "Free space or repair the directory, then try again.",
        )


_SYNC: Final[Callable[[int], None]] = getattr(os, "fdatasync", os.fsync)


def _require_empty(descriptor: int) -> None:
    if os.fstat(descriptor).st_size:
        raise FileExistsError(0, "the file exists and is not empty")


def _whole(descriptor: int, content: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, content, offset)
    if written != len(content):
        raise OSError(0, f"{written} of {len(content)} bytes written")
