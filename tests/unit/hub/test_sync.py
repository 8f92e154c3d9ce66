"""Synchronising a machine with a lock file: what is missing is pulled, what is damaged replaced, what is old refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.publishable_artifacts import ORGANISATION, OTHER, PUBLISHER, publishable_folder

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import RegistryUnavailableError, RollbackError, SignatureError, StaleError
from steerguard.hub.client import HubClient
from steerguard.hub.read_index import INDEX_REPOSITORY, read_index
from steerguard.hub.revoke import revoke
from steerguard.hub.sync import sync
from steerguard.registry.lockfile import LockedArtifact, LockedFile, LockedRegistry, lockfile_of
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import RevokedKey, verified_revocations

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

REGISTRY = f"hf://{ORGANISATION}"
KEYS = {REGISTRY: (PUBLISHER.public,)}


def locked(published):
    """The lock file of one published artifact."""
    entry, state = published.entry, published.state
    artifact = LockedArtifact(
        reference=f"{REGISTRY}/{entry.family}@^1",
        registry=REGISTRY,
        family=entry.family,
        variant=entry.variant,
        version=entry.version,
        digest=entry.digest,
        repo=entry.repo,
        commit=entry.commit,
        files=tuple(
            LockedFile(path=one.path, sha256=one.sha256, size=one.size)
            for one in sorted(published.manifest.files, key=lambda one: one.path)
        ),
        signed_by=(),
        vetting=None,
    )
    registry = LockedRegistry(
        registry=REGISTRY,
        index_sequence=state.index.sequence,
        index_sha256=state.index_sha256,
        revocations_sequence=state.revocations.sequence,
    )
    return lockfile_of(policies=(), registries=(registry,), artifacts=(artifact,))


@pytest.fixture
def lock(published):
    return locked(published)


class TestSync:
    def test_a_clean_machine_gets_everything_and_needs_no_network_again(self, hub, client, pulled, lock, published):
        report = sync(lock, pulled, client, index_keys=KEYS)
        assert report.pulled == (published.entry.reference,)
        assert report.registries == (REGISTRY,)
        pin = pulled.pin(published.entry)
        verify_artifact(pulled.read(pin), pin.digest)
        assert set(pulled.remembered(REGISTRY)) == {"index.dsse.json", "revocations.dsse.json"}
        hub.forget_requests()
        offline = sync(lock, pulled, None, index_keys=KEYS)
        assert (offline.present, offline.unchecked) == ((published.entry.reference,), (REGISTRY,))
        assert hub.requests == []

    def test_with_a_network_only_the_index_is_read_when_all_is_there(self, hub, client, pulled, lock):
        sync(lock, pulled, client, index_keys=KEYS)
        hub.forget_requests()
        report = sync(lock, pulled, client, index_keys=KEYS)
        assert report.pulled == ()
        assert all(INDEX_REPOSITORY in line for line in hub.requests)

    @pytest.mark.parametrize("offline", [None, HubClient(offline=True)])
    def test_offline_names_what_is_missing(self, hub, pulled, lock, published, offline):
        with pytest.raises(RegistryUnavailableError, match=published.entry.reference) as caught:
            sync(lock, pulled, offline, index_keys=KEYS)
        assert published.entry.commit in str(caught.value)

    def test_a_damaged_copy_is_replaced_and_offline_named(self, client, pulled, lock, published):
        sync(lock, pulled, client, index_keys=KEYS)
        (pulled.folder(published.entry.digest) / "recipe.yaml").write_text("seed: 8\n")
        with pytest.raises(RegistryUnavailableError, match="damaged"):
            sync(lock, pulled, None, index_keys=KEYS)
        report = sync(lock, pulled, client, index_keys=KEYS)
        assert report.repaired == (published.entry.reference,)
        assert pulled.sound(published.entry.digest)

    def test_a_damaged_attestation_is_replaced(self, client, pulled, lock, published):
        sync(lock, pulled, client, index_keys=KEYS)
        file = next((pulled.folder(published.entry.digest) / "attestations").iterdir())
        right = file.read_bytes()
        file.write_bytes(right[:-2] + b"!}")
        assert sync(lock, pulled, client, index_keys=KEYS).repaired == (published.entry.reference,)
        assert pulled.attestations(published.entry) == {f"attestations/{file.name}": right}

    def test_a_locked_commit_stays_although_the_registry_went_on(
        self, client, pulled, lock, published, publish_it, tmp_path
    ):
        publish_it(publishable_folder(tmp_path / "second", version="1.1.0"))
        sync(lock, pulled, client, index_keys=KEYS)
        assert [entry.reference for entry in pulled.entries()] == [published.entry.reference]

    def test_new_revocations_are_brought(self, client, pulled, lock, desk):
        key = RevokedKey(key_id=OTHER.public.id, reason="leaked_key", since="2026-11-22T00:00:00Z")
        revoke(client, ORGANISATION, keys=[key], signer=PUBLISHER, pulled=desk)
        sync(lock, pulled, client, index_keys=KEYS)
        content = pulled.remembered(REGISTRY)["revocations.dsse.json"]
        document, _ = verified_revocations(content, KEYS[REGISTRY], registry=REGISTRY, where="test")
        assert document.keys == (key,)

    def test_a_registry_without_keys_is_reported_and_not_asked(self, hub, client, pulled, lock, published):
        hub.forget_requests()
        report = sync(lock, pulled, client, index_keys={})
        assert report.unchecked == (REGISTRY,)
        assert report.pulled == (published.entry.reference,)
        assert not any(INDEX_REPOSITORY in line for line in hub.requests)


class TestFloor:
    def test_a_clean_machine_refuses_an_index_older_than_the_lock(self, hub, client, publish_it, published, tmp_path):
        second = publish_it(publishable_folder(tmp_path / "second", version="1.1.0"))
        hub.fault("stale", f"*/datasets/{ORGANISATION}/{INDEX_REPOSITORY}*")
        with pytest.raises(RollbackError):
            sync(locked(second), PulledArtifacts(tmp_path / "clean"), client, index_keys=KEYS)

    def test_an_index_by_a_stranger_is_refused(self, client, pulled, lock):
        with pytest.raises(SignatureError):
            sync(lock, pulled, client, index_keys={REGISTRY: (OTHER.public,)})

    def test_a_frozen_index_is_refused(self, client, pulled, lock):
        later = datetime.now(UTC) + timedelta(days=31)
        with pytest.raises(StaleError):
            sync(lock, pulled, client, index_keys=KEYS, now=lambda: later)
        with pytest.raises(StaleError):
            read_index(
                client,
                ORGANISATION,
                keys=KEYS[REGISTRY],
                pulled=pulled,
                now=datetime.now(UTC) + timedelta(hours=2),
                max_age=timedelta(hours=1),
            )
