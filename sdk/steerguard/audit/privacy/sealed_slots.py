"""The files of encrypted content: a row's ciphertext, and the slot that holds its wrapped data key.

`<log>.<segment>.sealed` holds ciphertexts (AES-256-GCM with the 16 bytes of its tag), one after the other.
`<log>.<segment>.keys` holds one slot of 512 bytes per ciphertext, in the same order:

    4  `SGK1`
    4  row
    8  offset of the ciphertext
    8  its length
    12 nonce
    2  length of the request id          numbers are unsigned, most significant byte first
    2  length of the wrapped data key
    128 request id, ASCII, padded with zero bytes
    344 wrapped data key, padded with zero bytes; all zero once it is erased

A slot is found by reading the slots from the first on: 2,000 rows are one megabyte.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from steerguard.audit.privacy.sealing import MAX_WRAPPED_BYTES, NONCE_BYTES, SealingKey
from steerguard.audit.records.fields import SealedContent
from steerguard.canonical import sha256_hex
from steerguard.errors import AuditContentError, ContentAlteredError, ContentErasedError, ContentKeyError

SLOT_BYTES: Final = 512
MAX_REQUEST_BYTES: Final = 128
ERASED: Final = bytes(MAX_WRAPPED_BYTES)
WRAPPED_OFFSET: Final = SLOT_BYTES - MAX_WRAPPED_BYTES
"""Where the wrapped data key begins in its slot."""
_SLOT: Final = struct.Struct(f">4sIQQ{NONCE_BYTES}sHH{MAX_REQUEST_BYTES}s{MAX_WRAPPED_BYTES}s")
_MAGIC: Final = b"SGK1"
_READ_SLOTS: Final = 2048
READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A link is not followed, and a pipe is not waited for."""
_RESTORE: Final = "Restore the file from a copy, and find out who wrote to the directory."


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one ciphertext lies, and its wrapped data key."""

    req: str
    row: int
    offset: int
    length: int
    nonce: bytes
    wrapped: bytes
    """Empty once it was erased."""

    @property
    def content(self) -> bytes:
        """The 512 bytes of the slot."""
        request = self.req.encode("ascii")
        return _SLOT.pack(
            _MAGIC,
            self.row,
            self.offset,
            self.length,
            self.nonce,
            len(request),
            len(self.wrapped),
            request,
            self.wrapped,
        )

    @classmethod
    def parse(cls, content: bytes) -> Slot | None:
        """Return the slot, or None where the bytes are none."""
        magic, row, offset, length, nonce, req_bytes, wrapped_bytes, request, wrapped = _SLOT.unpack(content)
        whole = magic == _MAGIC and req_bytes <= MAX_REQUEST_BYTES and wrapped_bytes <= MAX_WRAPPED_BYTES
        if not whole or not request[:req_bytes].isascii():
            return None
        return cls(
            req=request[:req_bytes].decode("ascii"),
            row=row,
            offset=offset,
            length=length,
            nonce=nonce,
            wrapped=wrapped[:wrapped_bytes] if wrapped != ERASED else b"",
        )


class Place(NamedTuple):
    """The place of a row: its ciphertext and its wrapped key open nowhere else."""

    log: str
    file: str
    """Name of the file of ciphertexts."""
    slot: int
    req: str
    row: int

    @property
    def of_content(self) -> bytes:
        """Associated data of the ciphertext; no part holds a zero byte."""
        return self._bound("sealed-content")

    @property
    def of_data_key(self) -> bytes:
        """Associated data of the wrapped data key."""
        return self._bound("wrapped-key")

    def _bound(self, purpose: str) -> bytes:
        return "\x00".join((f"steerguard/{purpose}/1", *map(str, self))).encode("ascii")


def slots_in(descriptor: int) -> Iterator[tuple[int, Slot | None]]:
    """Yield position and slot of every whole slot of a file of keys; None where the bytes are no slot."""
    position = 0
    while chunk := os.pread(descriptor, _READ_SLOTS * SLOT_BYTES, position * SLOT_BYTES):
        whole = len(chunk) // SLOT_BYTES
        if whole == 0:
            return
        for index in range(whole):
            yield position + index, Slot.parse(chunk[index * SLOT_BYTES : (index + 1) * SLOT_BYTES])
        position += whole


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Hold the lock of an open file of keys: a slot is overwritten, or cut off, by one at a time.

    Raises:
        OSError: the file system has no such locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def keys_file_of(sealed_file: str) -> str:
    """Return the name of the file of keys beside a file of ciphertexts."""
    return sealed_file.removesuffix(".sealed") + ".keys"


def open_slot(directory: Path, sealed: SealedContent, key: SealingKey, *, log: str, req: str, row: int) -> bytes:
    """Return the content of one row, as `SealedStore.append` got it.

    Args:
        directory: where the files of the log are.
        sealed: what the record says of the content.
        key: the sealing key whose id the record names.
        log: the log of the record.
        req: its request.
        row: its row.

    Raises:
        ContentErasedError: its key was destroyed.
        ContentKeyError: it was sealed under another key.
        ContentAlteredError: the ciphertext, the slot or the record was changed.
        AuditContentError: a file is missing or cannot be read.
        AuditKeyError: a key service failed.
    """
    where = f"{sealed.file}, slot {sealed.slot}"
    found = _read(directory / keys_file_of(sealed.file), sealed.slot * SLOT_BYTES, SLOT_BYTES)
    slot = Slot.parse(found) if len(found) == SLOT_BYTES else None
    if slot is None or (slot.req, slot.row, slot.length) != (req, row, sealed.bytes):
        raise ContentAlteredError("The slot is not the one of this row.", where=where, next_step=_RESTORE)
    if not slot.wrapped:
        raise ContentErasedError(
            "The content of this row was erased.",
            where=where,
            next_step="See the record content.erased of this request: `steerguard audit query`.",
        )
    if key.id != sealed.key:
        raise ContentKeyError(
            "The content was sealed under another key.",
            where=where,
            expected=f"sealing key {sealed.key}",
            found=f"sealing key {key.id}",
            next_step="Give the key that the record names.",
        )
    ciphertext = _read(directory / sealed.file, slot.offset, slot.length)
    if f"sha256:{sha256_hex(ciphertext)}" != sealed.digest:
        raise ContentAlteredError("The encrypted content was changed.", where=where, next_step=_RESTORE)
    place = Place(log, sealed.file, sealed.slot, req, row)
    data_key = key.unwrap(slot.wrapped, place.of_data_key)
    try:
        return AESGCM(data_key).decrypt(slot.nonce, ciphertext, place.of_content)
    except InvalidTag:
        raise ContentAlteredError("The encrypted content does not open.", where=where, next_step=_RESTORE) from None


def _read(path: Path, offset: int, length: int) -> bytes:
    try:
        descriptor = os.open(path, READ_FLAGS)
        try:
            # What a slot claims is not believed: no more is read than there is.
            size = os.fstat(descriptor).st_size
            return os.pread(descriptor, min(length, size - offset), offset) if offset < size else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AuditContentError(
            "The encrypted content cannot be read.",
            where=path,
            found=error.strerror,
            next_step="Copy the files .sealed and .keys together with the log.",
        ) from error
