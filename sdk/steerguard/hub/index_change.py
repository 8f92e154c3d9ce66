"""Changing the signed documents of a registry by compare-and-swap: read, verify, merge, sign, commit on that parent.

When somebody else was quicker the whole round is repeated on what they wrote, so that no entry is ever lost.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from steerguard.errors import ArtifactIntegrityError, PublishConflictError
from steerguard.hub.footing import Floor, read_for_change
from steerguard.hub.read_index import (
    RegistryState,
    index_repository,
    registry_name,
    remember_state,
    state_at,
)
from steerguard.registry.memory import remember_intent, remember_writing
from steerguard.registry.revocations import (
    REVOCATIONS,
    REVOCATIONS_TYPE,
    RevokedArtifact,
    RevokedKey,
    revocation_list,
    revocations_bytes,
)
from steerguard.registry.signed_index import (
    SIGNED_INDEX,
    SIGNED_INDEX_TYPE,
    HubEntry,
    signed_index_bytes,
    signed_index_of,
)
from steerguard.signing.dsse import sign
from steerguard.signing.keys import PublicKey, Signer

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts

ATTEMPTS: Final = 5
VALID_FOR: Final = timedelta(days=30)
"""How long a signed document is valid by default: it must be renewed within this time."""

_FIRST_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the documents shall say next; None leaves a document as it is."""

    message: str
    """First line of the commit's message."""
    entries: tuple[HubEntry, ...] | None = None
    artifacts: tuple[RevokedArtifact, ...] | None = None
    """Revoked artifacts; goes with `keys`."""
    keys: tuple[RevokedKey, ...] | None = None
    """Revoked keys; goes with `artifacts`."""


def change_registry(
    client: HubClient,
    organisation: str,
    change: Callable[[RegistryState], Change | None],
    *,
    signer: Signer,
    keys: Iterable[PublicKey],
    pulled: PulledArtifacts,
    valid_for: timedelta = VALID_FOR,
    private: bool | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    new_registry: bool = False,
    at_least: Floor | None = None,
) -> RegistryState:
    """Change the signed documents of a registry and return its new state.

    Args:
        client: the Hub.
        organisation: whose registry.
        change: says from the present state what shall come next; None when nothing must change.
        signer: signs what changes.
        keys: who else may have signed the present state.
        pulled: remembers the newest verified state.
        valid_for: how long the new documents are valid.
        private: visibility of a new index repository; None leaves it to the organisation's settings.
        now: the present, with a time zone.
        new_registry: begin the registry: its index repository is made when absent, and holds no document yet.
        at_least: the newest sequences that the writer knows of; needed where `pulled` has never written.

    Raises:
        PublishConflictError: somebody else was quicker in every round, or a registry that is to be begun exists.
        ArtifactNotFoundError: there is no registry, and none is to be begun.
        SignatureError: the present state is not signed by one of the keys.
        RollbackError: the Hub shows an older state than one that was seen before, has lost the list of revocations, or
            nothing is known of the registry.
        ArtifactIntegrityError: the Hub gives back other bytes than it took.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
        SigningKeyError: the signer cannot sign.
    """
    allowed = tuple(dict.fromkeys((*keys, signer.public)))
    repo = index_repository(organisation)
    for attempt in range(ATTEMPTS):
        state = read_for_change(
            client,
            organisation,
            keys=allowed,
            pulled=pulled,
            new_registry=new_registry,
            at_least=at_least,
            is_done=lambda begun: change(begun) is None,
        )
        wanted = change(state)
        if wanted is None:
            return state
        files = _signed(state, wanted, organisation, signer=signer, valid_for=valid_for, now=now())
        parent = state.commit
        if parent is None:
            client.create_repository(repo, repo_type="dataset", private=private)
            # Somebody may have made it, and filled it, since the state was read: then begin again.
            parent = client.head(repo, repo_type="dataset")
            filled = state_at(client, organisation, parent, keys=allowed)
            if filled.index is not None or filled.revocations is not None:
                continue
        if state.index is None:
            remember_intent(state.registry, files, pulled=pulled)
        try:
            commit = client.commit(repo, additions=files, parent=parent, message=wanted.message, repo_type="dataset")
        except PublishConflictError:
            time.sleep(_FIRST_WAIT_SECONDS * 2**attempt * (1 + random.random()))  # noqa: S311 - spreads two writers
            continue
        return _read_back(client, organisation, commit, files, keys=allowed, pulled=pulled)
    raise PublishConflictError(
        "The index of the registry changed in every attempt.",
        where=f"{client.endpoint}/datasets/{repo}",
        expected=f"one of {ATTEMPTS} attempts without another writer",
        found="another writer each time",
        next_step="Run the command again when fewer people publish; what was uploaded is used again.",
    )


def _signed(
    state: RegistryState, wanted: Change, organisation: str, *, signer: Signer, valid_for: timedelta, now: datetime
) -> dict[str, bytes]:
    """Return the envelopes of the documents that change."""
    registry, files = registry_name(organisation), dict[str, bytes]()
    if wanted.entries is not None:
        index = signed_index_of(
            registry,
            wanted.entries,
            sequence=1 if state.index is None else state.index.sequence + 1,
            issued=now,
            expires=now + valid_for,
        )
        files[SIGNED_INDEX] = sign(signed_index_bytes(index), SIGNED_INDEX_TYPE, [signer])
    if wanted.artifacts is not None or wanted.keys is not None:
        document = revocation_list(
            registry,
            sequence=1 if state.revocations is None else state.revocations.sequence + 1,
            issued=now,
            expires=now + valid_for,
            artifacts=wanted.artifacts or (),
            keys=wanted.keys or (),
        )
        files[REVOCATIONS] = sign(revocations_bytes(document), REVOCATIONS_TYPE, [signer])
    return files


def _read_back(
    client: HubClient,
    organisation: str,
    commit: str,
    files: dict[str, bytes],
    *,
    keys: tuple[PublicKey, ...],
    pulled: PulledArtifacts,
) -> RegistryState:
    state = state_at(client, organisation, commit, keys=keys)
    found = {SIGNED_INDEX: state.index_envelope, REVOCATIONS: state.revocations_envelope}
    for path, content in files.items():
        if found[path] != content:
            raise ArtifactIntegrityError(
                "The Hub gives back another document than it took.",
                where=f"{client.endpoint}/datasets/{index_repository(organisation)} at {commit}: {path}",
                next_step="Run the command again; if it stays so, do not rely on this Hub.",
            )
    remember_state(state, keys=keys, pulled=pulled, older=True)
    remember_writing(state.registry, pulled=pulled)
    return state
