"""Revoking artifacts and keys of a local registry: its signed list lies at the root, and each new one has a higher number."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from steerguard.errors import ArtifactError
from steerguard.registry.folder import read_file
from steerguard.registry.local import LocalDirectory
from steerguard.registry.revocations import (
    MAX_REVOCATIONS_BYTES,
    REVOCATIONS,
    REVOCATIONS_TYPE,
    RevocationList,
    RevokedArtifact,
    RevokedKey,
    revocation_list,
    revocations_bytes,
    verified_revocations,
)
from steerguard.registry.staging import STAGING_PREFIX, registry_lock, sync_directory, write_durably
from steerguard.signing.dsse import sign
from steerguard.signing.keys import PublicKey, Signer


def revoke_locally(
    registry: LocalDirectory,
    *,
    artifacts: Iterable[RevokedArtifact] = (),
    keys: Iterable[RevokedKey] = (),
    signer: Signer,
    list_keys: Iterable[PublicKey] = (),
    valid_for: timedelta,
    now: datetime | None = None,
) -> RevocationList:
    """Sign a new list that says what the present one says and these too; without any it only renews the list.

    Args:
        registry: whose list.
        artifacts: artifacts to revoke, by digest or by name and range; what the list says already is not said twice.
        keys: keys to revoke.
        signer: signs the new list.
        list_keys: who else may have signed the present list.
        valid_for: how long the new list is valid.
        now: the present, with a time zone.

    Raises:
        SignatureError: the present list is malformed, of another registry, or signed by none of the keys.
        ArtifactFormatError: a revocation is malformed.
        ArtifactNotFoundError: the folder is not a registry.
        ArtifactError: the operating system refuses.
    """
    registry.entries()
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    file = registry.root / REVOCATIONS
    staged = registry.root / f"{STAGING_PREFIX}{secrets.token_hex(8)}"
    try:
        with registry_lock(registry.root):
            present = _present(registry, (signer.public, *list_keys))
            old = ((), ()) if present is None else (present.artifacts, present.keys)
            known = {one.key_id for one in old[1]}
            document = revocation_list(
                registry.name,
                sequence=1 if present is None else present.sequence + 1,
                issued=moment,
                expires=moment + valid_for,
                artifacts=(*old[0], *(one for one in artifacts if not _is_said(one, old[0]))),
                keys=(*old[1], *(one for one in keys if one.key_id not in known)),
            )
            try:
                write_durably(staged, sign(revocations_bytes(document), REVOCATIONS_TYPE, [signer]))
                staged.replace(file)
            finally:
                staged.unlink(missing_ok=True)
            sync_directory(registry.root)
    except OSError as error:
        raise ArtifactError(
            "The list of revocations could not be written.",
            where=file,
            found=error.strerror or type(error).__name__,
            next_step="Free space or correct the permissions, then do it again.",
        ) from error
    return document


def _present(registry: LocalDirectory, keys: tuple[PublicKey, ...]) -> RevocationList | None:
    try:
        content = read_file(registry.root / REVOCATIONS, max_bytes=MAX_REVOCATIONS_BYTES)
    except FileNotFoundError:
        return None
    where = str(registry.root / REVOCATIONS)
    return verified_revocations(content, keys, registry=registry.name, where=where)[0]


def _is_said(new: RevokedArtifact, old: tuple[RevokedArtifact, ...]) -> bool:
    """Return whether the list has this revocation already, whatever its note and time."""
    same = {"note", "since"}
    return any(new.model_dump(exclude=same) == one.model_dump(exclude=same) for one in old)
