"""What must be there before a log is opened: its directory and the keys for its content."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import platformdirs

from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.privacy.sealing import MAKE_SEALING_KEY, SEALING_VARIABLE, SealingKey
from steerguard.audit.sinks import AuditSink
from steerguard.errors import AuditError, AuditKeyError, AuditSinkError

KEY_FILE: Final = "content.key"


def prepared_directory(directory: Path | None) -> Path:
    """Return the directory for a log, made where it is not there; by default the user's log directory for steerguard.

    Raises:
        AuditSinkError: it cannot be made.
    """
    directory = platformdirs.user_log_path("steerguard", appauthor=False) if directory is None else directory
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AuditSinkError(
            "The directory for audit logs cannot be made.",
            where=directory,
            expected="a directory that this process can make and write to",
            found=error.strerror,
            next_step="Free space or give another directory, then try again.",
        ) from error
    return directory.absolute()


def content_key(directory: Path | None) -> ContentKey:
    """Return the key for hashing content: that of the environment, else the directory's own, which is made on first use.

    Raises:
        AuditKeyError: the key is malformed or open to others, cannot be made, or there is no directory.
    """
    key = ContentKey.from_environment()
    if key is not None:
        return key
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


def required_sealing_key(sealing: SealingKey | None, sink: AuditSink | None) -> SealingKey:
    """Return the key to seal content with: the given one, else that of the environment. None is ever made by itself.

    Raises:
        AuditError: the log has a sink of the caller's, so that there is no place for sealed content.
        AuditKeyError: there is no key, or it is malformed.
    """
    if sink is not None:
        raise AuditError(
            "Sealed content needs a directory.",
            expected="a log without a sink of its own when content is 'encrypted'",
            next_step="Open the log with a directory, or with content='hmac'.",
        )
    sealing = sealing or SealingKey.from_environment()
    if sealing is None:
        raise AuditKeyError(
            "There is no key to seal content with.",
            expected=f"sealing=SealingKey, or the environment variable {SEALING_VARIABLE}",
            next_step=MAKE_SEALING_KEY,
        )
    return sealing
