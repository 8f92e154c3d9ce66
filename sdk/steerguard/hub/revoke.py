"""Revoking artifacts and keys, and renewing the signatures before they expire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from steerguard.errors import ArtifactNotFoundError
from steerguard.hub.footing import Floor
from steerguard.hub.index_change import VALID_FOR, Change, change_registry
from steerguard.hub.read_index import RegistryState, registry_name
from steerguard.registry.revocations import RevokedArtifact, RevokedKey, with_more
from steerguard.signing.keys import PublicKey, Signer

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts


def revoke(
    client: HubClient,
    organisation: str,
    *,
    artifacts: Iterable[RevokedArtifact] = (),
    keys: Iterable[RevokedKey] = (),
    signer: Signer,
    index_keys: Iterable[PublicKey] = (),
    pulled: PulledArtifacts,
    valid_for: timedelta = VALID_FOR,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    new_registry: bool = False,
    at_least: Floor | None = None,
) -> RegistryState:
    """Append to the signed list of revocations; what it says already is not said twice.

    Args:
        client: the Hub.
        organisation: whose registry.
        artifacts: artifacts to revoke, by digest or by name and range.
        keys: keys to revoke.
        signer: signs the new list.
        index_keys: who else may have signed the present state.
        pulled: remembers the newest verified state.
        valid_for: how long the new list is valid.
        now: the present, with a time zone.
        new_registry: this revocation begins the registry.
        at_least: the newest sequences that the writer knows of; needed where `pulled` has never written.

    Raises:
        As `change_registry` does, and ArtifactFormatError when a revocation is malformed.
    """
    new_artifacts, new_keys = tuple(artifacts), tuple(keys)

    def change(state: RegistryState) -> Change | None:
        known = state.revocations
        all_artifacts, all_keys = with_more(known, new_artifacts, new_keys)
        if known is not None and (all_artifacts, all_keys) == (known.artifacts, known.keys):
            return None
        return Change(
            message="Revoke artifacts or keys",
            # A registry has both from its beginning, so that one which is missing is seen.
            entries=() if state.index is None else None,
            artifacts=all_artifacts,
            keys=all_keys,
        )

    return change_registry(
        client,
        organisation,
        change,
        signer=signer,
        keys=index_keys,
        pulled=pulled,
        valid_for=valid_for,
        now=now,
        new_registry=new_registry,
        at_least=at_least,
    )


def renew(
    client: HubClient,
    organisation: str,
    *,
    signer: Signer,
    index_keys: Iterable[PublicKey] = (),
    pulled: PulledArtifacts,
    valid_for: timedelta = VALID_FOR,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    at_least: Floor | None = None,
) -> RegistryState:
    """Sign index and list of revocations again, as they are, with a new time of expiry, in one commit.

    Args are those of `revoke`; a registry cannot be begun in this way.

    Raises:
        ArtifactNotFoundError: the organisation has no registry.
        And as `change_registry` does.
    """

    def change(state: RegistryState) -> Change | None:
        if state.index is None:
            raise ArtifactNotFoundError(
                "There is nothing to renew.",
                where=registry_name(organisation),
                expected="a registry",
                found="none",
                next_step="Publish the first artifact.",
            )
        known = state.revocations
        return Change(
            message="Renew index and revocations",
            entries=state.index.artifacts,
            artifacts=() if known is None else known.artifacts,
            keys=() if known is None else known.keys,
        )

    return change_registry(
        client,
        organisation,
        change,
        signer=signer,
        keys=index_keys,
        pulled=pulled,
        valid_for=valid_for,
        now=now,
        at_least=at_least,
    )
