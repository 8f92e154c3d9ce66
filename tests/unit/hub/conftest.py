"""A loopback hub, the real client on it, and stores in a temporary folder."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tests.loopback_hubs import client_online, footing
from tests.publishable_artifacts import ORGANISATION, PUBLISHER, publishable_folder

from steerguard.hub.client import HubClient
from steerguard.hub.publish import publish
from steerguard.registry.pulled import PulledArtifacts
from steerguard.testing import LoopbackHub


@pytest.fixture
def hub(tmp_path):
    disable_progress_bars()
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        yield hub
    enable_progress_bars()


@pytest.fixture
def client(hub):
    return HubClient(hub.endpoint, hub.token)


@pytest.fixture
def pulled(tmp_path):
    """The store of a reader."""
    return PulledArtifacts(tmp_path / "reader")


@pytest.fixture
def desk(tmp_path):
    """The store of the publisher."""
    return PulledArtifacts(tmp_path / "publisher")


@pytest.fixture
def folder(tmp_path):
    """A signed artifact that may be published."""
    return publishable_folder(tmp_path / "artifact")


@pytest.fixture
def publish_it(hub, client, desk):
    """Publish a folder to the organisation `acme`, signed by the publisher; settings go to `publish`."""

    def call(folder, **settings):
        settings = {
            "organisation": ORGANISATION,
            "pulled": desk,
            "signer": PUBLISHER,
            **footing(hub, settings.get("organisation", ORGANISATION)),
        } | settings
        return publish(client, folder, **settings)

    return call


@pytest.fixture
def published(publish_it, folder):
    """The artifact of `folder`, published."""
    return publish_it(folder)
