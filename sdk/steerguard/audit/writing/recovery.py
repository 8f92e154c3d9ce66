"""Finishing the logs of a directory whose processes died, so that they verify and say what they may have lost.

What follows the last whole line is moved aside, never deleted, and no earlier line is changed. Then the log gets the
records `log.recovered` and `log.close`, and its last checkpoints. A log that is damaged in another way is left as it is.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

import structlog

from steerguard.audit.evidence.checkpoint import SignedHead, parse_head, split_notes
from steerguard.audit.evidence.checkpoint_file import CheckpointFile, last_whole_note
from steerguard.audit.evidence.layout import log_at, logs_in
from steerguard.audit.writing.last_records import LastRecords, Recoverer
from steerguard.audit.writing.survived import damaged
from steerguard.errors import AuditError

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_WRITABLE: Final = 0o200


def recover_logs(directory: Path, recoverer: Recoverer) -> tuple[str, ...]:
    """Finish every log of a directory that nobody writes to and that is not finished.

    What cannot be finished is reported as the warning `audit_log_not_recovered` of structlog's logger `steerguard`, and
    left for the next process.

    Returns:
        The ids of the logs that were finished.
    """
    done = []
    try:
        logs = logs_in(directory)
    except AuditError as error:
        _warn(directory.name, error)
        return ()
    for files in logs:
        if files.log == recoverer.log or files.checkpoints is None:
            continue
        try:
            if _recover(files.checkpoints, recoverer):
                done.append(files.log)
        except (AuditError, OSError) as error:
            _warn(files.log, error)
    return tuple(done)


def _recover(path: Path, recoverer: Recoverer) -> bool:
    """Finish one log; return whether there was anything to finish."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            raise damaged(path, "no regular file")
        if not mode & _WRITABLE:
            return False
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        # Somebody pruned it meanwhile.
        return False
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        status = os.fstat(descriptor)
        if not status.st_mode & _WRITABLE or status.st_nlink == 0:
            # Another process finished it, or pruned it, between our look and our lock.
            return False
        content = _read(descriptor)
        whole, last = last_whole_note(content)
        notes = CheckpointFile(os.dup(descriptor), path, size=whole, last=last)
        try:
            LastRecords(log_at(path), notes, _notes(content[:whole]), recoverer).write(content[whole:])
        finally:
            notes.close()
        return True
    finally:
        # A child that was forked meanwhile, or an interrupt behind the copy, would keep the lock with the file.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def _notes(content: bytes) -> tuple[SignedHead, ...]:
    return tuple(parse_head(note) for note in split_notes(content))


def _warn(log: str, error: AuditError | OSError) -> None:
    found = error.strerror if isinstance(error, OSError) else error.found
    structlog.get_logger("steerguard").warning(
        "audit_log_not_recovered", log=log, error=type(error).__name__, found=None if found is None else str(found)
    )
