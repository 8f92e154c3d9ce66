"""The registry of an organisation as a store: entries from the signed index only, bytes through the local store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.publishable_artifacts import ORGANISATION, OTHER, PUBLISHER, publishable_folder

from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import (
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    SignatureError,
    SigningKeyError,
    StaleError,
)
from steerguard.hub.registry import HubRegistry
from steerguard.registry.index import IndexEntry

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


@pytest.fixture
def registry(client, pulled):
    """A reader's view."""
    return HubRegistry(ORGANISATION, client=client, pulled=pulled, index_keys=[PUBLISHER.public])


class TestReading:
    def test_an_artifact_is_found_pinned_and_read(self, registry, published, folder):
        assert registry.name == "hf://acme"
        (entry,) = registry.entries()
        assert entry == published.entry
        assert set(registry.attestations(entry)) == {f"attestations/release.{PUBLISHER.public.id}.json"}
        pin = registry.pin(entry)
        verify_artifact(registry.read(pin), pin.digest)

    def test_pinning_downloads_the_manifest_only(self, hub, registry, published):
        (entry,) = registry.entries()
        hub.forget_requests()
        assert registry.pin(entry).manifest == published.manifest
        assert [line.rsplit("/", 1)[1] for line in hub.requests] == ["manifest.json"]

    def test_the_index_is_read_once_until_it_is_refreshed(self, hub, registry, published, publish_it, tmp_path):
        registry.entries()
        publish_it(publishable_folder(tmp_path / "second", version="1.1.0"))
        hub.forget_requests()
        assert len(registry.entries()) == 1
        assert hub.requests == []
        registry.refresh()
        assert len(registry.entries()) == 2

    def test_an_index_that_expires_meanwhile_is_stale(self, client, pulled, published):
        times = [datetime.now(UTC)]
        registry = HubRegistry(
            ORGANISATION, client=client, pulled=pulled, index_keys=[PUBLISHER.public], now=lambda: times[0]
        )
        assert registry.entries()
        times[0] += timedelta(days=31)
        with pytest.raises(StaleError):
            registry.entries()

    def test_an_index_by_another_key_is_refused(self, client, pulled, published):
        with pytest.raises(SignatureError):
            HubRegistry(ORGANISATION, client=client, pulled=pulled, index_keys=[OTHER.public]).entries()

    def test_an_organisation_without_a_registry_is_named(self, client, pulled):
        with pytest.raises(ArtifactNotFoundError, match="nobody"):
            HubRegistry("nobody", client=client, pulled=pulled, index_keys=[PUBLISHER.public]).entries()

    def test_a_digest_that_the_index_does_not_list_is_not_asked_for(self, hub, registry, published):
        registry.entries()
        hub.forget_requests()
        entry = IndexEntry(family="inferaligner", variant="tiny", version="1.0.0", digest="sha256:" + "0" * 64)
        for question in (registry.pin, registry.attestations):
            with pytest.raises(ArtifactNotFoundError, match="does not list"):
                question(entry)
        assert hub.requests == []

    def test_a_tampered_manifest_is_not_parsed(self, hub, registry, published):
        (entry,) = registry.entries()
        hub.fault("tamper", "GET */manifest.json")
        with pytest.raises(ArtifactIntegrityError, match="not the one that was pinned"):
            registry.pin(entry)

    def test_a_poisoned_copy_heals_when_it_is_read(self, registry, published, pulled):
        (entry,) = registry.entries()
        pin = registry.pin(entry)
        registry.read(pin)
        (pulled.folder(entry.digest) / "recipe.yaml").write_text("seed: 8\n")
        verify_artifact(registry.read(pin), pin.digest)


class TestAdding:
    def test_add_publishes_and_shows_it(self, client, pulled, folder):
        registry = HubRegistry(
            ORGANISATION, client=client, pulled=pulled, index_keys=[PUBLISHER.public], signer=PUBLISHER
        )
        pin = registry.add(folder, new_registry=True)
        assert [entry.digest for entry in registry.entries()] == [pin.digest]

    def test_without_a_signer_nothing_is_added(self, hub, registry, folder):
        with pytest.raises(SigningKeyError, match="read-only"):
            registry.add(folder)
        assert hub.requests == []


class TestSearch:
    @pytest.mark.parametrize(
        ("settings", "found"),
        [
            ({}, 2),
            ({"text": "INFERALIGNER 1.1"}, 1),
            ({"text": "nothing"}, 0),
            ({"artifact_type": "steering_vectors"}, 2),
            ({"artifact_type": "critic"}, 0),
            ({"base_model": "Example/"}, 2),
            ({"base_model": "llama"}, 0),
        ],
    )
    def test_words_types_and_base_models(self, registry, published, publish_it, tmp_path, settings, found):
        publish_it(publishable_folder(tmp_path / "second", version="1.1.0"))
        assert len(registry.search(**settings)) == found
