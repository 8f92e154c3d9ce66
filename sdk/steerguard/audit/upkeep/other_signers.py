"""Whether maintenance is about to sign with another key than the logs of a directory were signed with.

A log by a key that nobody pins does not verify, and what it says of pruned segments does not count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steerguard.audit.evidence.checkpoint import SignedHead
from steerguard.audit.evidence.layout import logs_in
from steerguard.audit.settings import CheckpointSettings
from steerguard.audit.verification.files import open_regular
from steerguard.audit.verification.notes import NoteReader
from steerguard.audit.writing.checkpoint_keys import CHECKPOINT_KEY_FILE, CHECKPOINT_VARIABLE, checkpoint_signer
from steerguard.errors import AuditVerificationError


@dataclass(frozen=True, slots=True)
class OtherSigners:
    """Keys as `<name>+<hash>`."""

    own: str | None
    """The key about to sign; None when the directory has none yet, and would get one."""
    others: tuple[str, ...]
    """Keys that signed the end of logs of the directory, and that no checkpoint of two keys leads to or from."""


def other_signers(directory: Path, settings: CheckpointSettings) -> OtherSigners | None:
    """Return who else signed the logs of a directory; None when nobody did, or when there is no directory.

    The signatures are read and not verified: this is for a warning. Files that cannot be read are passed over, since
    verification reports them.

    Args:
        directory: of the logs.
        settings: what maintenance would sign with.

    Raises:
        AuditKeyError: the signing key cannot be used.
        AuditVerificationError: the directory cannot be read.
    """
    if not directory.is_dir():
        return None
    last: set[str] = set()
    linked: list[set[str]] = []
    for files in logs_in(directory):
        end: set[str] = set()
        for head in _heads(files.checkpoints):
            names = {f"{one.name}+{one.hash}" for one in head.note.signatures}
            if len(names) > 1:
                linked.append(names)
            end = names
        last |= end
    own = _signing_key(directory, settings)
    reached = set() if own is None else {own}
    while grown := {name for names in linked if names & reached for name in names} - reached:
        reached |= grown
    others = tuple(sorted(last - reached))
    return OtherSigners(own, others) if others else None


def _signing_key(directory: Path, settings: CheckpointSettings) -> str | None:
    """Return the key that would sign, without making one."""
    given = settings.signer is not None or CHECKPOINT_VARIABLE in os.environ
    if not given and not (directory / CHECKPOINT_KEY_FILE).exists():
        return None
    signer = checkpoint_signer(settings, directory)
    return None if signer is None else f"{signer.key.name}+{signer.key.hash}"


def _heads(path: Path | None) -> Iterator[SignedHead]:
    if path is None:
        return
    try:
        file = open_regular(path)
    except AuditVerificationError:
        return
    with file:
        notes = NoteReader(file)
        while (note := notes.next()) is not None and note.head is not None:
            yield note.head
