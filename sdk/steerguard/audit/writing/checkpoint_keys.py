"""Which key signs the checkpoints of the logs in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from steerguard.audit.evidence.durable import replaced
from steerguard.audit.evidence.note import NoteKey
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.writing.anchor import CheckpointSigner
from steerguard.errors import AuditKeyError, SigningKeyError
from steerguard.signing.keys import Signer, SigningKey

CHECKPOINT_VARIABLE: Final = "STEERGUARD_CHECKPOINT_KEY"
CHECKPOINT_KEY_FILE: Final = "checkpoint.key"
VERIFIER_KEY_FILE: Final = "checkpoint.vkey"


def checkpoint_signer(settings: CheckpointSettings, directory: Path | None) -> CheckpointSigner | None:
    """Return the signer that the settings name, else for a directory that of the environment, else the directory's own.

    Args:
        settings: of the log.
        directory: where `checkpoint.key` is, or is made together with `checkpoint.vkey`; None for a log that has none.

    Raises:
        AuditKeyError: a key cannot be read or made, or its name is not allowed.
    """
    try:
        signer: Signer | None = settings.signer
        if signer is None and directory is not None:
            signer = SigningKey.from_environment(CHECKPOINT_VARIABLE) or _directory_signer(directory, settings.name)
    except SigningKeyError as error:
        raise AuditKeyError(
            "The key for signing checkpoints cannot be used.",
            where=error.where,
            expected=error.expected,
            found=error.found or error.summary,
            next_step=error.next_step,
        ) from error
    if signer is None:
        return None
    chosen = CheckpointSigner(settings.name, signer)
    _ = chosen.key  # raises when the name is not allowed
    return chosen


def write_verifier_key(path: Path, key: NoteKey) -> None:
    """Write the public key as verifiers take it, mode 0644, whole or not at all; a file with the same content stays.

    Raises:
        AuditKeyError: it cannot be written.
    """
    content = f"{key.text}\n".encode("ascii")
    try:
        if path.exists() and path.read_bytes() == content:
            return
        with replaced(path, mode=0o644) as file:
            file.write(content)
    except OSError as error:
        raise AuditKeyError(
            "The public key for checkpoints cannot be written.",
            where=path,
            found=error.strerror,
            next_step="Free space or repair the directory, then try again.",
        ) from error


def _directory_signer(directory: Path, name: str) -> SigningKey:
    path = directory / CHECKPOINT_KEY_FILE
    try:
        signer = SigningKey.create(path) if not path.exists() else SigningKey.from_file(path)
    except SigningKeyError:
        # Another process may have made it meanwhile; then that one is the key.
        if not path.exists():
            raise
        signer = SigningKey.from_file(path)
    write_verifier_key(directory / VERIFIER_KEY_FILE, NoteKey(name, signer.public))
    return signer
