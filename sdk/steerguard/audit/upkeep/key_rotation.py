"""Replacing the key files of a log directory: the old key is kept beside the new one, or destroyed.

Files, for `content.key` (the same with `checkpoint.key`, whose public half `checkpoint.vkey` moves along):

    content.next.key         the successor, from the beginning of a rotation until it is in force
    content.<id>.key         a key that was in force before
    content.<id>.destroy     one that is being destroyed

The order: make the successor, record `log.key_rotate` in a log of its own, give the old key its second name, put the
successor in its place (one rename), destroy the old key if that is asked for. At every moment `content.key` is there, and
a key that was recorded as in force is lost only when it was to be destroyed. Where a run was interrupted, the next one
goes on: it takes the successor that is there, and finishes a destruction that was begun.

Processes that have a log open go on with the key that they opened it with, until they open another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steerguard.audit.copies import CheckpointCopy
from steerguard.audit.evidence.checkpoint import DEFAULT_KEY_NAME
from steerguard.audit.evidence.durable import sync_directory
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import KEY_VARIABLE, ContentKey
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verification.pins import pinned_key
from steerguard.audit.writing.checkpoint_keys import (
    CHECKPOINT_KEY_FILE,
    CHECKPOINT_VARIABLE,
    VERIFIER_KEY_FILE,
    write_verifier_key,
)
from steerguard.audit.writing.opening import KEY_FILE
from steerguard.errors import AuditKeyError
from steerguard.registry.file_lock import file_lock
from steerguard.signing.keys import SigningKey

DESTROY_SUFFIX: Final = ".destroy"


@dataclass(frozen=True, slots=True)
class RotatedKey:
    """What a rotation did."""

    previous: str
    """Id of the old key; of a checkpoint key its hash."""
    key: str
    """Id of the key in force now."""
    kept: Path | None
    """Where the old key is; None when it was destroyed."""
    verifier_key: str | None
    """The new verifier key of a checkpoint key."""
    log: str | None
    """The log that holds the record; None when only the end of an interrupted destruction was left to do."""


def rotate_content_key(
    directory: Path,
    *,
    destroy_old: bool = False,
    checkpoints: CheckpointSettings = CheckpointSettings(),  # noqa: B008 - immutable
) -> RotatedKey:
    """Replace the key that content is hashed with.

    With `destroy_old` the tags under the old key can never be linked to content again; the logs stay valid. The record
    says so before it is done, so that no key is destroyed without a record.

    Args:
        directory: of the logs.
        destroy_old: overwrite and remove the old key. Copies of the file, and what a medium keeps of overwritten
            blocks, are out of reach.
        checkpoints: who signs the log that the record goes to, under which name, and where its checkpoints go besides.

    Raises:
        AuditKeyError: there is no key to replace, one cannot be read or made, or an environment variable is in force.
        AuditSinkError: the event cannot be recorded; the old key stays.
    """
    with _rotating(directory, KEY_VARIABLE):
        path = directory / KEY_FILE
        finished = _finish_destruction(path)
        if finished is not None:
            return RotatedKey(finished, ContentKey.from_file(path).id, None, None, None)
        old = ContentKey.from_file(_required(path))
        successor = _successor(path)
        new = ContentKey.from_file(successor) if _is_ours(successor, path) else ContentKey.create(successor)
        with AuditLog.open(directory, key=old, checkpoints=checkpoints) as log:
            log.rotate_content_key(new, destroyed=destroy_old)
            log_id = log.log_id
        kept = _exchange(path, old.id, destroy=destroy_old)
    return RotatedKey(old.id, new.id, kept, None, log_id)


def rotate_checkpoint_key(
    directory: Path, *, destroy_old: bool = False, copies: tuple[CheckpointCopy, ...] = ()
) -> RotatedKey:
    """Replace the key that signs checkpoints; the first checkpoint of the new key is signed by both.

    The old verifier key stays as `checkpoint.<hash>.vkey`: the logs so far are verified with it.

    Args:
        directory: of the logs.
        destroy_old: overwrite and remove the old signing key, so that nobody can sign another past with it.
        copies: where the checkpoints of the log with the record go besides the directory.

    Raises:
        AuditKeyError: there is no key to replace, one cannot be read or made, or an environment variable is in force.
        AuditSinkError: the event cannot be recorded or signed; the old key stays.
        SigningKeyError: a key file cannot be read or made.
    """
    with _rotating(directory, CHECKPOINT_VARIABLE):
        path, public = directory / CHECKPOINT_KEY_FILE, directory / VERIFIER_KEY_FILE
        name = pinned_key(str(public)).name if public.exists() else DEFAULT_KEY_NAME
        finished = _finish_destruction(path)
        if finished is not None:
            key = NoteKey(name, SigningKey.from_file(path).public)
            write_verifier_key(public, key)
            return RotatedKey(finished, key.hash, None, key.text, None)
        signer = SigningKey.from_file(_required(path))
        old = NoteKey(name, signer.public)
        successor = _successor(path)
        new_signer = SigningKey.from_file(successor) if _is_ours(successor, path) else SigningKey.create(successor)
        new = NoteKey(name, new_signer.public)
        settings = CheckpointSettings(signer=signer, name=name, copies=copies)
        with AuditLog.open(directory, content="none", checkpoints=settings) as log:
            log.rotate_checkpoint_key(new_signer)
            log_id = log.log_id
        write_verifier_key(directory / f"checkpoint.{old.hash}.vkey", old)
        kept = _exchange(path, old.hash, destroy=destroy_old)
        write_verifier_key(public, new)
    return RotatedKey(old.hash, new.hash, kept, new.text, log_id)


@contextmanager
def _rotating(directory: Path, variable: str) -> Iterator[None]:
    """Keep other rotations of the directory out.

    Raises:
        AuditKeyError: the environment variable hides the file, or the directory cannot be changed.
    """
    if variable in os.environ:
        raise AuditKeyError(
            "The key file of the directory is not in force.",
            where=f"environment variable {variable}",
            expected="no such variable: it comes before the file",
            next_step="Change the key where the variable is set, and restart the processes that write logs.",
        )
    if not directory.is_dir():
        raise AuditKeyError("This is not a directory of audit logs.", where=directory)
    try:
        with file_lock(directory):
            yield
    except OSError as error:
        raise AuditKeyError(
            "The keys of the directory cannot be replaced.",
            where=directory,
            found=error.strerror,
            next_step="Give the directory of the logs, with the right to write, and run the same command again.",
        ) from error


def _successor(path: Path) -> Path:
    return path.with_name(f"{path.stem}.next{path.suffix}")


def _is_ours(successor: Path, path: Path) -> bool:
    """Whether an interrupted run left a successor.

    Raises:
        AuditKeyError: somebody else put one there: the old key would introduce a key of theirs.
    """
    if not os.path.lexists(successor):
        return False
    owner, expected = successor.lstat().st_uid, path.lstat().st_uid
    if owner != expected:
        raise AuditKeyError(
            "The next key of the directory was put there by another user.",
            where=successor,
            expected=f"a file of the user with the number {expected}, whose key it replaces",
            found=f"one of the user with the number {owner}",
            next_step="Keep the file as evidence, remove it from the directory, and run the same command again.",
        )
    return True


def _required(path: Path) -> Path:
    if not path.exists():
        raise AuditKeyError(
            "There is no key to replace.",
            where=path,
            next_step="A key is made when the first log is opened in the directory.",
        )
    return path


def _exchange(path: Path, key_id: str, *, destroy: bool) -> Path | None:
    """Put the successor in force, and return where the old key is now; None when it was destroyed."""
    kept = path.with_name(f"{path.stem}.{key_id}{DESTROY_SUFFIX if destroy else path.suffix}")
    # Two names for one file: the old key is never without one before the rename.
    if not os.path.lexists(kept):
        kept.hardlink_to(path)
        sync_directory(path.parent)
    elif kept.is_symlink() or not kept.samefile(path):
        raise AuditKeyError(
            "The name that the old key is kept under is taken.",
            where=kept,
            expected="no such file",
            next_step="Move the file away, and run the same command again.",
        )
    _successor(path).replace(path)
    sync_directory(path.parent)
    if not destroy:
        return kept
    plain = path.with_name(f"{path.stem}.{key_id}{path.suffix}")
    if plain.exists():
        # An earlier run that was to keep the key was interrupted.
        _destroy(plain)
    _destroy(kept)
    return None


def _finish_destruction(path: Path) -> str | None:
    """Destroy what an interrupted run left, and return its id; None when it left nothing, or had not changed the key yet."""
    for left in sorted(path.parent.glob(f"{path.stem}.*{DESTROY_SUFFIX}")):
        if path.exists() and left.samefile(path):
            # Interrupted before the exchange: the rotation begins again, and needs the name anew.
            left.unlink()
            continue
        _destroy(left)
        return left.name.removeprefix(f"{path.stem}.").removesuffix(DESTROY_SUFFIX)
    return None


def _destroy(path: Path) -> None:
    """Overwrite a file, wait until that is on the medium, and remove it; what a link leads to is left alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for _ in range(2):
            file.seek(0)
            file.write(os.urandom(size))
            os.fsync(file.fileno())
    path.unlink()
    sync_directory(path.parent)
