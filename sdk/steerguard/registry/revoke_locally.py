"""Revoking artifacts and keys of a local registry: its signed list lies at the root, and each new one has a higher number."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from steerguard.errors import ArtifactError, ArtifactNotFoundError, PublishConflictError, RollbackError
from steerguard.registry.folder import read_file
from steerguard.registry.local import LocalDirectory
from steerguard.registry.memory import has_written, known_documents, remember, remember_writing
from steerguard.registry.revocations import (
    MAX_REVOCATIONS_BYTES,
    REVOCATIONS,
    REVOCATIONS_TYPE,
    RevocationList,
    RevokedArtifact,
    RevokedKey,
    is_said,
    revocation_list,
    revocations_bytes,
    verified_revocations,
    with_more,
)
from steerguard.registry.staging import STAGING_PREFIX, registry_lock, sync_directory, write_durably
from steerguard.signing.dsse import sign
from steerguard.signing.keys import PublicKey, Signer

if TYPE_CHECKING:
    from steerguard.registry.pulled import PulledArtifacts


def revoke_locally(
    registry: LocalDirectory,
    *,
    artifacts: Iterable[RevokedArtifact] = (),
    keys: Iterable[RevokedKey] = (),
    signer: Signer,
    list_keys: Iterable[PublicKey] = (),
    pulled: PulledArtifacts,
    valid_for: timedelta,
    now: datetime | None = None,
    new_registry: bool = False,
    at_least: int | None = None,
) -> RevocationList:
    """Sign a new list that says what the present one says and these too; without any it only renews the list.

    Args:
        registry: whose list.
        artifacts: artifacts to revoke, by digest or by name and range; what the list says already is not said twice.
        keys: keys to revoke.
        signer: signs the new list.
        list_keys: who else may have signed the present list.
        pulled: remembers the newest verified list.
        valid_for: how long the new list is valid.
        now: the present, with a time zone.
        new_registry: begin the list; without it there must be one, so that a list which somebody removed is not begun
            again without its revocations.
        at_least: the newest sequence of the list that the writer knows of; needed where `pulled` has never written.

    Raises:
        PublishConflictError: a list is to be begun, and there is one.
        RollbackError: the list is older than one that is known, has disappeared, or `pulled` has never written one.
        SignatureError: the present list is malformed, of another registry, or signed by none of the keys.
        ArtifactFormatError: a revocation is malformed.
        ArtifactNotFoundError: the folder is not a registry, or it has no list and none is to be begun.
        ArtifactError: the operating system refuses.
    """
    registry.entries()
    allowed = tuple(dict.fromkeys((signer.public, *list_keys)))
    new_artifacts, new_keys = tuple(artifacts), tuple(keys)
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    file = registry.root / REVOCATIONS
    staged = registry.root / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    try:
        with registry_lock(registry.root):
            content = _content(registry)
            present = None
            if content is not None:
                present, _ = verified_revocations(content, allowed, registry=registry.name, where=str(file))
            is_known = REVOCATIONS in known_documents(registry.name, keys=allowed, pulled=pulled)
            _check_floor(present, at_least, where=str(file))
            is_begun = new_registry and present is not None and _is_begun_with(present, new_artifacts, new_keys)
            if not is_begun:
                _require_meant(present, new_registry or (present is None and is_known), where=str(file))
            if present is not None and not new_registry and at_least is None:
                _require_known(present, is_known and has_written(registry.name, pulled=pulled), where=str(file))
            remember(registry.name, {REVOCATIONS: content}, keys=allowed, pulled=pulled)
            if is_begun:
                assert present is not None
                return present
            all_artifacts, all_keys = with_more(present, new_artifacts, new_keys)
            document = revocation_list(
                registry.name,
                sequence=1 if present is None else present.sequence + 1,
                issued=moment,
                expires=moment + valid_for,
                artifacts=all_artifacts,
                keys=all_keys,
            )
            try:
                envelope = sign(revocations_bytes(document), REVOCATIONS_TYPE, [signer])
                write_durably(staged, envelope)
                staged.replace(file)
            finally:
                staged.unlink(missing_ok=True)
            sync_directory(registry.root)
            remember(registry.name, {REVOCATIONS: envelope}, keys=allowed, pulled=pulled)
            remember_writing(registry.name, pulled=pulled)
    except OSError as error:
        raise ArtifactError(
            "The list of revocations could not be written.",
            where=file,
            found=error.strerror or type(error).__name__,
            next_step="Free space or correct the permissions, then do it again.",
        ) from error
    return document


def _content(registry: LocalDirectory) -> bytes | None:
    try:
        return read_file(registry.root / REVOCATIONS, max_bytes=MAX_REVOCATIONS_BYTES)
    except FileNotFoundError:
        return None


def _check_floor(present: RevocationList | None, at_least: int | None, *, where: str) -> None:
    """Refuse a list that is older than the writer knows of, or that has disappeared."""
    if at_least is not None and (0 if present is None else present.sequence) < at_least:
        raise RollbackError(
            "The registry shows an older list of revocations than the writer knows of.",
            where=where,
            expected=f"sequence {at_least} or higher",
            found="no such file" if present is None else _shown(present),
            next_step="Find out who wrote to the folder, and put the newest list back.",
        )


def _require_known(present: RevocationList, is_known: bool, *, where: str) -> None:
    """Refuse to sign a list anew that no writer of this store stands by."""
    if not is_known:
        raise RollbackError(
            "This store has never written the list that is to be signed anew, so an old one could be shown to it.",
            where=where,
            expected="a store that has written the list, or the sequence that you know of",
            found=_shown(present),
            next_step="Use the store of the last change (STEERGUARD_STORE), or state the sequence that it printed with "
            "--at-least LIST (at_least=…). Do not take it from this message.",
        )


def _require_meant(present: RevocationList | None, new_registry: bool, *, where: str) -> None:
    """Refuse to begin a list where that was not asked for, and to go on with one where a new one was."""
    if present is None and not new_registry:
        raise ArtifactNotFoundError(
            "The registry has no list of revocations.",
            where=where,
            expected=REVOCATIONS,
            found="no such file",
            next_step="If it is to be begun now, say so with --new-registry (new_registry=True). If there was one, find "
            "out who removed it and put it back.",
        )
    if present is not None and new_registry:
        raise PublishConflictError(
            "A new list of revocations was asked for, and there is one already.",
            where=where,
            expected="no such file",
            found=_shown(present),
            next_step="Run the command again without --new-registry (new_registry=True).",
        )


def _shown(present: RevocationList) -> str:
    return f"list {present.sequence}, issued {present.issued}"


def _is_begun_with(
    present: RevocationList, artifacts: tuple[RevokedArtifact, ...], keys: tuple[RevokedKey, ...]
) -> bool:
    """Return whether a list is just what shall be begun, as after an interruption behind its first writing."""
    return (
        present.sequence == 1
        and bool(artifacts or keys)
        and len(present.artifacts) == len(artifacts)
        and all(is_said(one, present.artifacts) for one in artifacts)
        and {one.key_id for one in present.keys} == {one.key_id for one in keys}
    )
