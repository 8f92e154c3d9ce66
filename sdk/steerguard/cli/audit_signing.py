"""With which key the commands of `steerguard audit` that write a log of their own sign it, and where its checkpoints go."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from steerguard.cli.visible import say

if TYPE_CHECKING:
    from steerguard.audit.copies import DirectoryCopy
    from steerguard.audit.settings import CheckpointSettings


def signing_of(
    directory: Path, signing_key: Path | None, key_name: str | None, copies: Sequence[Path] | None
) -> CheckpointSettings:
    """Return what the options say, and warn when logs of the directory were signed by another key; call it within `reported`.

    Raises:
        SigningKeyError: the file of the key cannot be used.
        AuditKeyError: the key that the directory or the environment holds cannot be used, or the name is not allowed.
        AuditVerificationError: the directory cannot be read.
    """
    from steerguard.audit.evidence.checkpoint import DEFAULT_KEY_NAME
    from steerguard.audit.settings import CheckpointSettings
    from steerguard.audit.upkeep.other_signers import other_signers
    from steerguard.signing.keys import SigningKey

    settings = CheckpointSettings(
        signer=None if signing_key is None else SigningKey.from_file(signing_key),
        name=DEFAULT_KEY_NAME if key_name is None else key_name,
        copies=copies_of(directory, copies),
    )
    found = other_signers(directory, settings)
    if found is not None:
        own = "a key that is made now" if found.own is None else found.own
        warning = (
            f"warning: logs of this directory were signed by {', '.join(found.others)}; this command signs with {own}. "
            "Whoever pins only the first finds the log of this command unpinned: give that key with --signing-key FILE "
            "and --key-name NAME, or have verifiers pin both."
        )
        say(warning, err=True)
    return settings


def copies_of(directory: Path, copies: Sequence[Path] | None) -> tuple[DirectoryCopy, ...]:
    """Return the second places for checkpoints.

    Raises:
        BadParameter: one of them is the directory of the logs itself.
    """
    from steerguard.audit.copies import DirectoryCopy

    for path in copies or ():
        if path.resolve() == directory.resolve():
            raise typer.BadParameter("A copy of the checkpoints belongs into another directory than the logs.")
    return tuple(DirectoryCopy(path) for path in copies or ())
