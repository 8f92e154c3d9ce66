"""What a guard that was made with a trust policy watches, and how its lists of revocations are read again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from steerguard.errors import RegistryError
from steerguard.registry.names import is_hub, organisation_of
from steerguard.revocation import Revocations
from steerguard.trust.revocation_source import current_list, load_revocations
from steerguard.trust.watch import RevocationWatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts
    from steerguard.registry.revocations import RevocationList
    from steerguard.trust.document import TrustPolicy


class ListReader:
    """Reads the present list of one registry: from the Hub, or from this machine. For the watch's thread.

    Args:
        trust: says whose signature counts.
        pulled: remembers the newest verified list of each registry.
        client: the Hub; one with the settings of the environment by default, made when it is needed first.
    """

    def __init__(self, trust: TrustPolicy, pulled: PulledArtifacts, client: HubClient | None = None) -> None:
        self._trust = trust
        self._pulled = pulled
        self._client = client
        self._silent: set[str] = set()
        """Registries that did not answer the last time."""

    def __call__(self, registry: str) -> RevocationList | None:
        """Return the present list of a registry, whatever its age; None where it has none and that is allowed.

        The age is for who asks to judge: what a list revokes is revoked, also where it has expired already.
        Where the Hub does not answer it is the list that this machine has seen last, which another process may have
        brought.

        Raises:
            TrustError: the list is missing, older than one seen before, or not signed by the registry.
            ArtifactError: it is malformed, or the operating system refuses.
        """
        if is_hub(registry):
            self._fetch(registry)
        current = current_list(self._trust, self._pulled, registry, datetime.now(UTC))
        # What a list that is missing means is for the trust policy to say.
        return current or load_revocations(self._trust, self._pulled, [registry]).get(registry)

    def _fetch(self, registry: str) -> None:
        """Bring the list that the Hub has to this machine, verified."""
        from steerguard.hub.client import HubClient  # noqa: PLC0415 - needed for registries on the Hub only
        from steerguard.hub.read_index import read_revocations  # noqa: PLC0415 - as above

        if self._client is None:
            self._client = HubClient(progress=False)
        if self._client.offline:
            return
        keys = self._trust.keys_of_registry(registry, datetime.now(UTC))
        try:
            # Not the index: whoever spoils it must not be able to hide a revocation with it.
            read_revocations(self._client, organisation_of(registry), keys=keys, pulled=self._pulled)
        except RegistryError as error:
            if registry not in self._silent:
                structlog.get_logger("steerguard").warning(
                    "revocations_not_fetched", registry=registry, error=error.code
                )
            self._silent.add(registry)
        else:
            self._silent.discard(registry)


def revocations_of(
    trust: TrustPolicy | None,
    known: Mapping[str, RevocationList],
    pulled: PulledArtifacts,
    client: HubClient | None = None,
) -> Revocations | None:
    """Return what a guard does about revocations; None where no trust policy names a registry that signs lists.

    Nothing is read and no thread starts before the first request.

    Args:
        trust: the trust policy.
        known: the lists that the artifacts were admitted by.
        pulled: remembers the newest verified list of each registry.
        client: the Hub; one with the settings of the environment by default.
    """
    if trust is None or not trust.registries:
        return None
    return Revocations(
        RevocationWatch(
            ListReader(trust, pulled, client),
            known=known,
            registries=[named.registry for named in trust.registries],
            every=trust.revocation.check_every_span.total_seconds(),
            max_age=trust.revocation.max_age_span,
            on_stale=trust.revocation.on_stale,
        )
    )
