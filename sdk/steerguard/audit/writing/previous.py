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
from steerguard.audit.evidence.note import MAX_NOTE_BYTES
from steerguard.audit.writing.opened_files import newest_log

_TAIL_BYTES: Final = 3 * MAX_NOTE_BYTES
"""Two whole notes and a torn one."""


class PreviousLog(TypedDict):
    """The fields of `log.open` about it."""

    previous: str | None
    previous_size: int | None
    previous_root: str | None


def previous_log(directory: Path | None) -> PreviousLog:
    """Return what a new log of a directory states; nothing where there is no directory or no other log.

    The last checkpoint is taken as it stands. A file of checkpoints that is damaged must not keep a new log from being
    opened: then there is none, and verification reports the damage.

    Raises:
        AuditSinkError: the directory cannot be read.
    """
    newest = None if directory is None else newest_log(directory)
    if directory is None or newest is None:
        return PreviousLog(previous=None, previous_size=None, previous_root=None)
    head = _last_head(directory / checkpoints_name(newest), newest)
    if head is None:
        return PreviousLog(previous=newest, previous_size=None, previous_root=None)
    return PreviousLog(previous=newest, previous_size=head.size, previous_root=head.root.hex())


def _last_head(path: Path, log: str) -> TreeHead | None:
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
    return None if found is None or found.head.log != log else found.head
