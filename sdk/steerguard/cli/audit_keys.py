"""`steerguard audit keygen` and `steerguard audit rotate`: the keys of audit logs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from steerguard.cli.audit_answer import print_document
from steerguard.cli.audit_options import (
    AsJson,
    CheckpointCopies,
    LogDirectory,
    SigningKeyFile,
    SigningKeyName,
)
from steerguard.cli.audit_signing import copies_of, signing_of
from steerguard.cli.reporting import reported
from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.upkeep.key_rotation import RotatedKey


NewKey = Literal["checkpoint", "content", "sealing"]
RotatedKeyName = Literal["content", "checkpoint"]
"""The keys whose file lies in the directory of the logs."""


def keygen(
    path: Annotated[Path, typer.Argument(help="File for the new key; must not exist. Only its owner can read it.")],
    *,
    purpose: Annotated[
        NewKey,
        typer.Option(help="`checkpoint` signs, `content` hashes prompts and answers, `sealing` encrypts them."),
    ] = "checkpoint",
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of a checkpoint key, as verifiers see it: a host or a product, without spaces. By default "
            "steerguard-audit, as in AuditLog.open.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key in a file, and print its id; for checkpoints print the verifier key, and write it beside the key.

    The file of the verifier key has the suffix .vkey: give it to whoever checks the logs. Keep the other keys to yourself,
    and not beside the logs.
    """
    with reported():
        if purpose == "checkpoint":
            key, name_of_key = _checkpoint_key(path, name), "key"
        else:
            key, name_of_key = _new_id(path, purpose), "id"
    if as_json:
        print_document({"purpose": purpose, name_of_key: key})
    else:
        say(key if name_of_key == "key" else f"id  {key}")


def rotate(
    directory: LogDirectory,
    *,
    purpose: Annotated[
        RotatedKeyName,
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
    signing_key: SigningKeyFile = None,
    key_name: SigningKeyName = None,
    copies: CheckpointCopies = None,
    as_json: AsJson = False,
) -> None:
    """Replace a key of a directory of logs, and record that in a log of its own.

    Processes that have a log open go on with the key that they opened it with, until they open another log: restart them.
    The old key stays as content.<id>.key or checkpoint.<hash>.key, unless it is destroyed. After an interruption, run the
    same command again.
    """
    from steerguard.audit.upkeep.key_rotation import rotate_checkpoint_key, rotate_content_key

    if purpose == "checkpoint" and (signing_key is not None or key_name is not None):
        raise typer.BadParameter(
            "With --purpose checkpoint the key files of the directory sign: the old one and the new one."
        )
    with reported():
        if purpose == "content":
            checkpoints = signing_of(directory, signing_key, key_name, copies)
            rotated = rotate_content_key(directory, destroy_old=destroy_old, checkpoints=checkpoints)
        else:
            rotated = rotate_checkpoint_key(directory, destroy_old=destroy_old, copies=copies_of(directory, copies))
    if as_json:
        print_document({**asdict(rotated), "kept": None if rotated.kept is None else str(rotated.kept)})
    else:
        _describe(rotated)


def _describe(rotated: RotatedKey) -> None:
    say(f"old key  {rotated.previous}, {'destroyed' if rotated.kept is None else f'kept in {rotated.kept}'}")
    say(f"new key  {rotated.verifier_key or rotated.key}")
    if rotated.log is None:
        say("This finished the rotation that was interrupted before.")
    else:
        say(f"recorded in log {rotated.log}")


def _new_id(path: Path, purpose: Literal["content", "sealing"]) -> str:
    from steerguard.audit.privacy.keys import ContentKey
    from steerguard.audit.privacy.sealing import SealingKey

    return (ContentKey if purpose == "content" else SealingKey).create(path).id


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
