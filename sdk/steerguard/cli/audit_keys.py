"""`steerguard audit keygen` and `steerguard audit rotate`: the keys of audit logs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.reporting import reported

if TYPE_CHECKING:
    from steerguard.audit.upkeep.key_rotation import RotatedKey


class KeyPurpose(StrEnum):
    """What a key of the audit log does."""

    CHECKPOINT = "checkpoint"
    CONTENT = "content"
    SEALING = "sealing"


class RotatedPurpose(StrEnum):
    """Whose key file the directory of the logs holds."""

    CONTENT = "content"
    CHECKPOINT = "checkpoint"


def keygen(
    path: Annotated[Path, typer.Argument(help="File for the new key; must not exist. Only its owner can read it.")],
    *,
    purpose: Annotated[
        KeyPurpose,
        typer.Option(help="`checkpoint` signs, `content` hashes prompts and answers, `sealing` encrypts them."),
    ] = KeyPurpose.CHECKPOINT,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of a checkpoint key, as verifiers see it: a host or a product, without spaces. By default "
            "steerguard-audit, as in AuditLog.open.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make a key in a file. For checkpoints, print the verifier key, and write it to the file with the suffix .vkey.

    Give the verifier key to whoever checks the logs. Keep the other keys to yourself, and not beside the logs.
    """
    with reported():
        if purpose is KeyPurpose.CHECKPOINT:
            typer.echo(_checkpoint_key(path, name))
        elif purpose is KeyPurpose.CONTENT:
            from steerguard.audit.privacy.keys import ContentKey

            typer.echo(f"id  {ContentKey.create(path).id}")
        else:
            from steerguard.audit.privacy.sealing import SealingKey

            typer.echo(f"id  {SealingKey.create(path).id}")


def rotate(
    directory: Annotated[Path, typer.Argument(help="Directory of the logs, which holds the key file.")],
    *,
    purpose: Annotated[
        RotatedPurpose,
        typer.Option(
            help="`content`: content.key. `checkpoint`: checkpoint.key and checkpoint.vkey.", show_default=False
        ),
    ],
    destroy_old: Annotated[
        bool,
        typer.Option(
            "--destroy-old", help="Overwrite and remove the old key instead of keeping it beside the new one."
        ),
    ] = False,
) -> None:
    """Replace a key of a directory of logs, and record that in a log of its own.

    Processes that have a log open go on with the key that they opened it with, until they open another log: restart them.
    The old key stays as content.<id>.key or checkpoint.<hash>.key, unless it is destroyed. After an interruption, run the
    same command again.
    """
    from steerguard.audit.upkeep.key_rotation import rotate_checkpoint_key, rotate_content_key

    with reported():
        if purpose is RotatedPurpose.CONTENT:
            rotated = rotate_content_key(directory, destroy_old=destroy_old)
        else:
            rotated = rotate_checkpoint_key(directory, destroy_old=destroy_old)
    _describe(rotated)


def _describe(rotated: RotatedKey) -> None:
    typer.echo(f"old key  {rotated.previous}, {'destroyed' if rotated.kept is None else f'kept in {rotated.kept}'}")
    typer.echo(f"new key  {rotated.verifier_key or rotated.key}")
    if rotated.log is None:
        typer.echo("This finished the rotation that was interrupted before.")
    else:
        typer.echo(f"recorded in log {rotated.log}")


def _checkpoint_key(path: Path, name: str | None) -> str:
    """Make a signing key and the file with its verifier key, and return the latter."""
    from steerguard.audit.evidence.checkpoint import DEFAULT_KEY_NAME
    from steerguard.audit.evidence.note import NoteKey
    from steerguard.audit.writing.checkpoint_keys import write_verifier_key
    from steerguard.errors import AuditKeyError
    from steerguard.signing.keys import SigningKey

    public = path.with_suffix(".vkey") if path.suffix == ".key" else path.with_name(f"{path.name}.vkey")
    name = DEFAULT_KEY_NAME if name is None else name
    NoteKey(name, SigningKey.generate().public)  # raises for a name that is not allowed, before anything is made
    if public.exists() or public.is_symlink():
        raise AuditKeyError(
            "There is a verifier key already.", where=public, next_step="Choose a path that does not exist yet."
        )
    key = NoteKey(name, SigningKey.create(path).public)
    write_verifier_key(public, key)
    return key.text
