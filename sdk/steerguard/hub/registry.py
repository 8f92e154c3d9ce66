"""The registry of one organisation on the Hub, as a store of artifacts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from steerguard.errors import ArtifactNotFoundError, SigningKeyError
from steerguard.hub.footing import Floor
from steerguard.hub.index_change import VALID_FOR
from steerguard.hub.publish import publish
from steerguard.hub.pull import fetch_manifest, pull, read_remote_attestations
from steerguard.hub.read_index import RegistryState, read_index, registry_name
from steerguard.registry.freshness import check_fresh
from steerguard.registry.index import IndexEntry
from steerguard.registry.signed_index import SIGNED_INDEX, HubEntry
from steerguard.registry.store import PinnedManifest
from steerguard.signing.keys import PublicKey, Signer

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts


class HubRegistry:
    """A `PublishingStore` on the Hub.

    The index is read once, at the first question, and again after `refresh` or `add`; its age is judged at every question.

    Args:
        organisation: name on the Hub.
        client: calls the Hub.
        pulled: keeps what was downloaded, and remembers the newest verified index.
        index_keys: who may sign the index and the list of revocations.
        signer: signs the index when artifacts are added; None makes the registry read-only.
        valid_for: how long a new index is valid.
        max_age: longest accepted time since the index was issued.
        release_keys: who may have signed an artifact that is added; by default the signer and the index keys.
        private: visibility of new repositories; None leaves it to the organisation's settings.
        now: the present, with a time zone.
    """

    def __init__(
        self,
        organisation: str,
        *,
        client: HubClient,
        pulled: PulledArtifacts,
        index_keys: Iterable[PublicKey],
        signer: Signer | None = None,
        valid_for: timedelta = VALID_FOR,
        max_age: timedelta | None = None,
        release_keys: Iterable[PublicKey] | None = None,
        private: bool | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.organisation = organisation
        self.name = registry_name(organisation)
        self._client = client
        self._pulled = pulled
        self._keys = tuple(index_keys)
        self._signer = signer
        self._valid_for = valid_for
        self._max_age = max_age
        self._release_keys = None if release_keys is None else tuple(release_keys)
        self._private = private
        self._now = now
        self._state: RegistryState | None = None
        self._reading = threading.Lock()

    def state(self) -> RegistryState:
        """Return the verified index and list of revocations.

        Raises:
            As `read_index` does.
        """
        with self._reading:
            if self._state is None:
                self._state = read_index(
                    self._client,
                    self.organisation,
                    keys=self._keys,
                    pulled=self._pulled,
                    now=self._now(),
                    max_age=self._max_age,
                )
            state = self._state
        if state.index is not None:
            where = f"{self.name}: {SIGNED_INDEX}"
            check_fresh(state.index.issued_at, state.index.expires_at, self._now(), where=where, max_age=self._max_age)
        return state

    def refresh(self) -> None:
        """Forget the index, so that the next question reads it again."""
        with self._reading:
            self._state = None

    def entries(self) -> tuple[HubEntry, ...]:
        """Return what the signed index lists, sorted by family, variant and version.

        Raises:
            As `read_index` does.
        """
        index = self.state().index
        return () if index is None else index.artifacts

    def attestations(self, entry: IndexEntry) -> Mapping[str, bytes]:
        """Return the unverified files that vouch for one artifact, by path `attestations/<name>.json`.

        Raises:
            As `read_remote_attestations` and `read_index` do.
        """
        return read_remote_attestations(self._client, self._listed(entry))

    def pin(self, entry: IndexEntry) -> PinnedManifest:
        """Return the manifest of one entry; its digest is checked before it is parsed.

        Raises:
            As `fetch_manifest` and `read_index` do.
        """
        listed = self._listed(entry)
        return PinnedManifest(
            family=listed.family,
            variant=listed.variant,
            version=listed.version,
            digest=listed.digest,
            manifest=fetch_manifest(self._client, listed),
        )

    def read(self, pin: PinnedManifest) -> Mapping[str, bytes]:
        """Pull an artifact and return the content of every file, unverified: `verify_artifact` judges it.

        Raises:
            As `pull` and `read_index` do.
        """
        entry = IndexEntry(family=pin.family, variant=pin.variant, version=pin.version, digest=pin.digest)
        pull(self._client, self._listed(entry), self._pulled)
        return self._pulled.read(pin)

    def add(self, folder: Path, *, new_registry: bool = False, at_least: Floor | None = None) -> PinnedManifest:
        """Publish the artifact in a folder: all of it or nothing.

        Args:
            folder: the artifact.
            new_registry: this publication begins the registry.
            at_least: the newest sequences that are known; needed where the store has never written.

        Raises:
            SigningKeyError: the registry was opened without a signer.
            And as `publish` does.
        """
        if self._signer is None:
            raise SigningKeyError(
                "The registry is read-only: there is no key to sign its index with.",
                where=self.name,
                expected="a signer",
                found="none",
                next_step="Give the signing key, for example with --key or STEERGUARD_SIGNING_KEY.",
            )
        published = publish(
            self._client,
            folder,
            organisation=self.organisation,
            pulled=self._pulled,
            signer=self._signer,
            index_keys=self._keys,
            release_keys=self._release_keys,
            valid_for=self._valid_for,
            private=self._private,
            now=self._now,
            new_registry=new_registry,
            at_least=at_least,
        )
        self.refresh()
        return PinnedManifest(
            family=published.entry.family,
            variant=published.entry.variant,
            version=published.entry.version,
            digest=published.entry.digest,
            manifest=published.manifest,
        )

    def search(
        self, text: str = "", *, artifact_type: str | None = None, base_model: str | None = None
    ) -> tuple[HubEntry, ...]:
        """Return the entries whose name, type or base model has every word of a text, in any case; no file is read.

        Args:
            text: words; an empty text matches everything.
            artifact_type: only artifacts of this type.
            base_model: only artifacts whose base model has this text in its name.

        Raises:
            As `read_index` does.
        """
        words = text.casefold().split()
        return tuple(
            entry
            for entry in self.entries()
            if all(word in f"{entry.reference} {entry.type} {entry.base_model}".casefold() for word in words)
            and artifact_type in (None, entry.type)
            and (base_model or "").casefold() in entry.base_model.casefold()
        )

    def _listed(self, entry: IndexEntry) -> HubEntry:
        for listed in self.entries():
            if listed.key == entry.key and listed.digest == entry.digest:
                return listed
        raise ArtifactNotFoundError(
            f"The registry does not list {entry.reference} with this digest.",
            where=self.name,
            expected=entry.digest,
            found="no such entry",
            next_step="Run `steerguard lock --upgrade`, or ask the registry's owner.",
        )
