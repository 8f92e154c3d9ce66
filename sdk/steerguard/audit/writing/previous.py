"""What a new log says of the newest log before it: its id, and how far it was signed by then.

So a finished log cannot be cut, rewritten and finished anew without the next log showing it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, TypedDict

from steerguard.audit.evidence.checkpoint import TreeHead, last_note
from steerguard.audit.evidence.durable import sync_file
from steerguard.audit.evidence.layout import checkpoints_name
from steerguard.audit.evidence.note import MAX_NOTE_BYTES, NoteKey
from steerguard.audit.writing.opened_files import newest_log
from steerguard.errors import AuditVerificationError

_TAIL_BYTES: Final = 3 * MAX_NOTE_BYTES
"""Two whole notes and a torn one."""


class PreviousLog(TypedDict):
    """The fields of `log.open` about it."""

    previous: str | None
    previous_size: int | None
    previous_root: str | None


def previous_log(directory: Path | None, key: NoteKey | None) -> PreviousLog:
    """Return what a new log of a directory states; nothing where there is no directory or no other log.

    Only a checkpoint that `key` signed is stated: one that somebody else put there would make this log speak against a
    sound one for ever. A file of checkpoints that is damaged must not keep a new log from being opened: then nothing is
    stated of it, and verification reports the damage.

    Args:
        directory: where the new log will be.
        key: the key that signs the new log; None when it is not signed.

    Raises:
        AuditSinkError: the directory cannot be read.
    """
    newest = None if directory is None else newest_log(directory)
    if directory is None or newest is None:
        return PreviousLog(previous=None, previous_size=None, previous_root=None)
    head = None if key is None else _last_head(directory / checkpoints_name(newest), newest, key)
    if head is None:
        return PreviousLog(previous=newest, previous_size=None, previous_root=None)
    return PreviousLog(previous=newest, previous_size=head.size, previous_root=head.root.hex())


def _last_head(path: Path, log: str, key: NoteKey) -> TreeHead | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                return None
            tail = os.pread(descriptor, _TAIL_BYTES, max(0, status.st_size - _TAIL_BYTES))
            # Its process may not have come to this: what a durable record names must not be lost with the power.
            sync_file(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # Pruned meanwhile, or not to be read: who verifies finds that.
        return None
    found = last_note(tail)
    if found is None or found.head.log != log:
        return None
    try:
        return found.head if found.note.signed_by([key]) else None
    except AuditVerificationError:
        return None
