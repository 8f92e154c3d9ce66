"""The files that a log is written to while it is open."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from steerguard.audit.evidence.checkpoint_file import CheckpointFile
from steerguard.audit.evidence.layout import LogFiles, checkpoints_name, logs_in, segment_name
from steerguard.audit.writing.segments import Segments
from steerguard.errors import AuditSinkError, AuditVerificationError


@dataclass(frozen=True, slots=True)
class OpenedFiles:
    """The segments and the locked file of checkpoints of one log."""

    directory: Path
    log: str
    segments: Segments
    checkpoints: CheckpointFile

    @classmethod
    def create(cls, directory: Path, log: str) -> Self:
        """Make the files of a new log; the lock comes before everything else.

        Raises:
            AuditSinkError: one of them cannot be made; then there is none.
        """
        checkpoints = CheckpointFile.create(directory, log)
        try:
            return cls(directory, log, Segments.create(directory, log), checkpoints)
        except BaseException:
            try:
                _remove(directory, log)
            finally:
                checkpoints.close()
            raise

    def discard(self) -> None:
        """Remove the files of a log whose first record could not be written.

        A record that stands there, and could only not be synced or was interrupted, stays: another log may name this one
        already. The next process that opens a log finishes it.
        """
        # What a file system says of a file that is given up would only hide why.
        try:
            with suppress(AuditSinkError):
                self.segments.close()
            with suppress(OSError):
                if (self.directory / segment_name(self.log, 0)).lstat().st_size == 0:
                    _remove(self.directory, self.log)
        finally:
            with suppress(AuditSinkError):
                self.checkpoints.close()


def newest_log(directory: Path) -> str | None:
    """Return the id of the newest log in a directory that anything was written to.

    A log that is just being made may be given up again, so it is not named: it would be missed for ever.

    Raises:
        AuditSinkError: the directory cannot be read.
    """
    try:
        logs = logs_in(directory)
    except AuditVerificationError as error:
        raise AuditSinkError(
            "The directory for audit logs cannot be read.",
            where=directory,
            expected="a directory that can be listed",
            found=error.found,
            next_step="Give a directory that this process can read and write.",
        ) from error
    return next((files.log for files in reversed(logs) if _is_begun(files)), None)


def _is_begun(files: LogFiles) -> bool:
    own = () if files.checkpoints is None else (files.checkpoints,)
    for path in (*own, *(path for _, path in files.segments)):
        # What vanishes meanwhile was pruned or given up.
        with suppress(FileNotFoundError):
            if path.lstat().st_size:
                return True
    return False


def _remove(directory: Path, log: str) -> None:
    # What cannot be removed is empty, and the next process that opens a log finishes it; without its file of checkpoints
    # nobody could, so that one goes last.
    with suppress(OSError):
        for name in (segment_name(log, 0), checkpoints_name(log)):
            (directory / name).unlink(missing_ok=True)
