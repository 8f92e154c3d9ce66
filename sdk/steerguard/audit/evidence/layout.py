"""Which files make up a log, and which logs a directory holds.

    <log id>.<segment, six digits>.jsonl   records, one line each; closed segments have mode 0400
    <log id>.checkpoints                   signed checkpoints, appended; its lock says that the log is in use
    <log id>.<segment>.sealed / .keys      encrypted content and the wrapped keys of its slots
    <log id>.torn-<n>                      bytes that recovery set aside

A log is finished when its file of checkpoints cannot be written by its owner any more (mode 0400).
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from steerguard.errors import AuditVerificationError

LOG_ID: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16}")
_FILE: Final = re.compile(
    r"(?P<log>[0-9]{8}T[0-9]{6}Z-[0-9a-f]{16})\."
    r"(?:(?P<segment>[0-9]{6})\.(?P<kind>jsonl|sealed|keys)|(?P<whole>checkpoints)|torn-(?P<torn>[0-9]{1,6}))"
)
CHECKPOINTS_SUFFIX: Final = ".checkpoints"
MAX_SEGMENTS: Final = 1_000_000
FINISHED_MODE: Final = 0o400
OPEN_MODE: Final = 0o600


def new_log_id() -> str:
    """Return the id of a log that begins now: ids sort by time, down to the microsecond.

    The second, a dash, five hexadecimal digits of the microseconds, and eleven random ones.
    """
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond:05x}{secrets.token_hex(6)[:11]}"


def segment_name(log: str, segment: int) -> str:
    """Return the file name of a segment."""
    return f"{log}.{segment:06d}.jsonl"


def sealed_name(log: str, segment: int) -> str:
    """Return the file name of the encrypted content of a segment."""
    return f"{log}.{segment:06d}.sealed"


def slot_keys_name(log: str, segment: int) -> str:
    """Return the file name of the wrapped keys for the encrypted content of a segment."""
    return f"{log}.{segment:06d}.keys"


def checkpoints_name(log: str) -> str:
    """Return the file name of the checkpoints of a log."""
    return f"{log}{CHECKPOINTS_SUFFIX}"


@dataclass(frozen=True, slots=True)
class LogFiles:
    """The files of one log that are there."""

    log: str
    segments: tuple[tuple[int, Path], ...]
    """By number, rising; pruned ones are missing."""
    checkpoints: Path | None
    sealed: tuple[Path, ...] = ()
    """Encrypted content and its wrapped keys."""
    torn: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        own = () if self.checkpoints is None else (self.checkpoints,)
        return (*(path for _, path in self.segments), *own, *self.sealed, *self.torn)


def logs_in(directory: Path) -> tuple[LogFiles, ...]:
    """Return the logs of a directory, oldest first. Files of other names are not looked at.

    Raises:
        AuditVerificationError: the directory cannot be read.
    """
    return _grouped(directory, _names(directory))


def log_at(path: Path) -> LogFiles:
    """Return the files of the one log that `path`, any of its files, belongs to.

    Raises:
        AuditVerificationError: the name is not one of a log's file, or the directory cannot be read.
    """
    match = _FILE.fullmatch(path.name)
    prefix = "" if match is None else f"{match['log']}."
    names = () if match is None else [name for name in _names(path.parent) if name.startswith(prefix)]
    found = _grouped(path.parent, names)
    if not found:
        raise AuditVerificationError(
            "This is not a file of an audit log.",
            where=path,
            expected="<log id>.<six digits>.jsonl or <log id>.checkpoints",
            found="no such file or directory" if match is not None or not os.path.lexists(path) else "another name",
            next_step="Give a segment of a log, or the directory of the logs.",
        )
    return found[0]


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208 - there may be thousands, and only names are needed
    except OSError as error:
        raise AuditVerificationError(
            "The directory of audit logs cannot be read.",
            where=directory,
            found=error.strerror,
            next_step="Give the directory that the logs were written to.",
        ) from error


def _grouped(directory: Path, names: Sequence[str]) -> tuple[LogFiles, ...]:
    segments: dict[str, list[tuple[int, Path]]] = {}
    checkpoints: dict[str, Path] = {}
    sealed: dict[str, list[Path]] = {}
    torn: dict[str, list[Path]] = {}
    for name in names:
        match = _FILE.fullmatch(name)
        if match is None:
            continue
        log = match["log"]
        if match["kind"] == "jsonl":
            segments.setdefault(log, []).append((int(match["segment"]), directory / name))
        elif match["kind"] is not None:
            sealed.setdefault(log, []).append(directory / name)
        elif match["whole"] is not None:
            checkpoints[log] = directory / name
        else:
            torn.setdefault(log, []).append(directory / name)
    return tuple(
        LogFiles(
            log=log,
            segments=tuple(segments.get(log, ())),
            checkpoints=checkpoints.get(log),
            sealed=tuple(sealed.get(log, ())),
            torn=tuple(torn.get(log, ())),
        )
        for log in sorted({*segments, *checkpoints, *sealed, *torn})
    )
