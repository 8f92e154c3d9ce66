"""Erasing the encrypted content of a request: the wrapped keys of its rows are overwritten, and the log stays as it is.

What is overwritten is the file's content. A file system that copies on write, a flash device, a snapshot or a backup may
still hold the old block: then only destroying the sealing key helps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.sealed_slots import ERASED, READ_FLAGS, SLOT_BYTES, WRAPPED_OFFSET, Slot, locked, slots_in
from steerguard.audit.records.events import ContentErased
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.upkeep.hold import maintenance, require_no_hold, stated_reason
from steerguard.errors import AuditContentError, AuditSinkError

_SYNC: Final = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class SealedRows:
    """How many rows of a request one log holds encrypted."""

    log: str
    readable: int
    """Rows whose key is still there."""
    erased: int
    """Rows whose key was destroyed before."""


def sealed_rows(directory: Path, request: str) -> tuple[SealedRows, ...]:
    """Count the encrypted rows of a request in every log of a directory, also in logs that are in use.

    Raises:
        AuditContentError: a file of keys cannot be read.
        AuditVerificationError: the directory cannot be read.
    """
    found = []
    for files in logs_in(directory):
        slots = [slot for path in _keys_files(files.sealed) for _, slot in _slots_of(path, request)]
        if slots:
            readable = sum(bool(slot.wrapped) for slot in slots)
            found.append(SealedRows(files.log, readable, len(slots) - readable))
    return tuple(found)


def erase_request(
    directory: Path,
    request: str,
    *,
    reason: str,
    checkpoints: CheckpointSettings = CheckpointSettings(),  # noqa: B008 - immutable
) -> tuple[SealedRows, ...]:
    """Make the encrypted content of a request unreadable in every log of a directory, and record that.

    The record `content.erased` is on the medium before the first key is overwritten. When something fails in between,
    the error says so; the next call erases what is left and records that again.
    A request must have ended: rows that a running process seals later are not erased.

    Args:
        directory: of the logs; processes may be writing to it.
        request: id of the request, as its records hold it in `req`.
        reason: why, for the record.
        checkpoints: who signs the log that the record goes to, under which name, and where its checkpoints go besides.

    Returns:
        What was found: `readable` rows have been erased now. Nothing is recorded when there were none.

    Raises:
        LegalHoldError: a legal hold is in force.
        AuditSinkError: it could not be recorded, or a key could not be overwritten.
        AuditContentError: a file of keys cannot be read.
        AuditKeyError: the signing key cannot be used.
        AuditError: the reason is empty or too long, or no log can be opened.
    """
    stated = stated_reason(reason)
    with maintenance(directory):
        require_no_hold(directory)
        found = sealed_rows(directory, request)
        if any(rows.readable for rows in found):
            with AuditLog.open(directory, content="none", checkpoints=checkpoints) as log:
                for rows in found:
                    if rows.readable:
                        log.record(ContentErased(req=request, in_log=rows.log, rows=rows.readable, reason=stated))
                for files in logs_in(directory):
                    for path in _keys_files(files.sealed):
                        _destroy(path, request)
        return found


def _keys_files(sealed: Sequence[Path]) -> list[Path]:
    return [path for path in sealed if path.suffix == ".keys"]


def _slots_of(path: Path, request: str) -> Iterator[tuple[int, Slot]]:
    try:
        descriptor = os.open(path, READ_FLAGS)
        try:
            for position, slot in slots_in(descriptor):
                if slot is not None and slot.req == request:
                    yield position, slot
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        # Pruned meanwhile, together with its keys.
        return
    except OSError as error:
        raise AuditContentError("A file of wrapped keys cannot be read.", where=path, found=error.strerror) from error


def _destroy(path: Path, request: str) -> None:
    """Overwrite the wrapped keys of a request in one file with zeros."""
    readable = [position for position, slot in _slots_of(path, request) if slot.wrapped]
    if not readable:
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            for position in readable:
                # The writer may cut off a row that it could not finish: what stands there now is looked at under the lock.
                with locked(descriptor):
                    content = os.pread(descriptor, SLOT_BYTES, position * SLOT_BYTES)
                    slot = Slot.parse(content) if len(content) == SLOT_BYTES else None
                    if slot is not None and slot.req == request:
                        _overwrite(descriptor, position * SLOT_BYTES + WRAPPED_OFFSET)
            _SYNC(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise AuditSinkError(
            "The content of a request could not be erased, though the log says that it was.",
            where=path,
            expected="a file that this process may overwrite",
            found=error.strerror,
            next_step="Give this process the right to write the file, and erase again.",
        ) from error


def _overwrite(descriptor: int, offset: int) -> None:
    written = os.pwrite(descriptor, ERASED, offset)
    if written != len(ERASED):
        raise OSError(0, f"{written} of {len(ERASED)} bytes written")
