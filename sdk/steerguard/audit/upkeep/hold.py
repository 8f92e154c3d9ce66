"""A legal hold on a directory of audit logs: while it is in force, nothing is pruned and nothing erased.

The hold is the file `legal-hold.json` of the directory; what becomes of it is also recorded as `log.hold`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from steerguard.audit.evidence.durable import replaced, sync_directory
from steerguard.audit.log import AuditLog
from steerguard.audit.records.events import LogHold
from steerguard.audit.records.fields import REASON_LENGTH, Part, StatedReason, Timestamp, escaped
from steerguard.audit.settings import CheckpointSettings
from steerguard.errors import ArtifactError, AuditError, AuditSinkError, LegalHoldError
from steerguard.registry.file_lock import file_lock

HOLD_FILE: Final = "legal-hold.json"
_MAX_BYTES: Final = 64 * 1024


class Hold(Part):
    """A hold that is in force."""

    v: int
    since: Timestamp
    reason: StatedReason


_HOLD: Final = TypeAdapter(Hold)


def hold_in_force(directory: Path) -> Hold | None:
    """Return the hold on a directory, None where there is none.

    Raises:
        LegalHoldError: the file of the hold is there and cannot be read, which counts as a hold.
    """
    path = directory / HOLD_FILE
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - no link, no pipe
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    try:
        hold = _HOLD.validate_json(content, strict=True)
    except ValidationError:
        raise _unreadable(path, "something else than a hold") from None
    if hold.v != 1:
        raise _unreadable(path, f"version {hold.v}")
    return hold


def require_no_hold(directory: Path) -> None:
    """Refuse to go on while a hold is in force.

    Raises:
        LegalHoldError: it is, or its file cannot be read.
    """
    hold = hold_in_force(directory)
    if hold is not None:
        raise LegalHoldError(
            "A legal hold is in force: nothing is pruned and nothing erased.",
            where=directory / HOLD_FILE,
            found=f"held since {hold.since}: {hold.reason}",
            next_step="Whoever may lift it runs `steerguard audit hold DIR --release --reason TEXT`.",
        )


def place_hold(
    directory: Path,
    *,
    reason: str,
    checkpoints: CheckpointSettings = CheckpointSettings(),  # noqa: B008 - immutable
) -> Hold:
    """Put a hold on a directory and record it; a hold that is in force gets the new reason and keeps its date.

    The file is written first: when recording fails, the hold is in force all the same.

    Args:
        directory: of the logs.
        reason: why, for the record.
        checkpoints: who signs the log that the record goes to, under which name, and where its checkpoints go besides.

    Raises:
        AuditSinkError: the file or the record could not be written.
        AuditError: the reason is empty or too long, or the log cannot be opened.
    """
    stated = stated_reason(reason)
    with maintenance(directory):
        before = hold_in_force(directory)
        since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z" if before is None else before.since
        hold = Hold(v=1, since=since, reason=stated)
        _write(directory / HOLD_FILE, json.dumps(hold.model_dump(), indent=2).encode("ascii") + b"\n")
        with AuditLog.open(directory, content="none", checkpoints=checkpoints) as log:
            log.record(LogHold(state="held", reason=stated))
        return hold


def release_hold(
    directory: Path,
    *,
    reason: str,
    checkpoints: CheckpointSettings = CheckpointSettings(),  # noqa: B008 - immutable
) -> None:
    """Record that the hold is lifted, and lift it; when recording fails it stays in force.

    A file that cannot be read as a hold is lifted too.

    Args:
        directory: of the logs.
        reason: why, for the record.
        checkpoints: who signs the log that the record goes to, under which name, and where its checkpoints go besides.

    Raises:
        AuditError: there is no hold, the reason is empty or too long, or it cannot be recorded.
        AuditSinkError: the file cannot be removed.
    """
    stated = stated_reason(reason)
    path = directory / HOLD_FILE
    with maintenance(directory):
        if not os.path.lexists(path):
            raise AuditError("There is no legal hold to lift.", where=directory, next_step="Nothing is left to do.")
        with AuditLog.open(directory, content="none", checkpoints=checkpoints) as log:
            log.record(LogHold(state="released", reason=stated))
        try:
            path.unlink(missing_ok=True)
            sync_directory(directory)
        except OSError as error:
            raise AuditSinkError("The legal hold could not be lifted.", where=path, found=error.strerror) from error


def stated_reason(reason: str) -> str:
    """Return a reason as records hold it.

    Raises:
        AuditError: it is empty or too long.
    """
    stated = escaped(reason.strip())
    if not stated or len(stated) > REASON_LENGTH:
        raise AuditError(
            "Say why.",
            where="the reason",
            expected=f"a text of 1 to {REASON_LENGTH} characters once escaped to ASCII",
            found=f"{len(stated)} characters",
        )
    return stated


@contextmanager
def maintenance(directory: Path) -> Iterator[None]:
    """Hold the lock of the directory: holds, pruning and erasing exclude one another; logs are written on.

    Raises:
        AuditSinkError: the directory cannot be opened or locked.
    """
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(directory.resolve(strict=True)))
        except (OSError, ArtifactError) as error:
            raise AuditSinkError(
                "The directory of audit logs cannot be locked.",
                where=directory,
                found=getattr(error, "strerror", None) or type(error).__name__,
                next_step="Give an existing directory of audit logs on a file system with locks.",
            ) from error
        yield


def _write(path: Path, content: bytes) -> None:
    try:
        with replaced(path) as file:
            file.write(content)
    except OSError as error:
        raise AuditSinkError("The legal hold could not be written.", where=path, found=error.strerror) from error


def _unreadable(path: Path, found: str | None) -> LegalHoldError:
    return LegalHoldError(
        "The file of the legal hold cannot be read, which counts as a hold.",
        where=path,
        found=found,
        next_step="Look at the file. Whoever may lift it runs `steerguard audit hold DIR --release --reason TEXT`.",
    )
