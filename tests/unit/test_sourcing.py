"""Where artifacts may come from: registries by name, and the Hub without a lock in other modes than `enforce`."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tests.artifact_samples import sample_files, write_folder
from tests.loopback_hubs import REGULAR_UPLOAD, client_online
from tests.publishable_artifacts import PUBLISHER, publishable_folder
from tests.registry_commands import trust_file
from tests.signed_artifacts import revoked

from steerguard.artifacts.reference import parse_reference
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import RevokedError, SignatureError, StaleError, UnlockedArtifactError
from steerguard.hub.client import HubClient
from steerguard.hub.publish import publish
from steerguard.hub.revoke import revoke
from steerguard.registry.local import create_registry, embedded_registry
from steerguard.registry.pulled import PulledArtifacts
from steerguard.sourcing import open_sources, remote_registries
from steerguard.testing import LoopbackHub
from steerguard.trust.load import load_trust

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

REFERENCE = "hf://acme/inferaligner@^1"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    disable_progress_bars()
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub
    enable_progress_bars()


@pytest.fixture
def pulled(tmp_path):
    return PulledArtifacts(tmp_path / "store")


@pytest.fixture
def published(hub, tmp_path):
    folder = publishable_folder(tmp_path / "artifact")
    desk = PulledArtifacts(tmp_path / "desk")
    return publish(
        HubClient(hub.endpoint, hub.token),
        folder,
        organisation="acme",
        pulled=desk,
        signer=PUBLISHER,
        new_registry=True,
    )


@pytest.fixture
def trust(tmp_path):
    return trust_file(tmp_path, PUBLISHER, "hf://acme")


def found(sourcing, text):
    return list(sourcing.sources.candidates(parse_reference(text)))


def test_in_mode_monitor_the_hub_is_read_and_judged_without_a_lock(hub, published, trust, pulled):
    sourcing = open_sources(None, trust=trust, enforce=False, references=[REFERENCE], pulled=pulled)
    (candidate,) = found(sourcing, REFERENCE)
    assert candidate.pin.digest == published.entry.digest
    assert candidate.evidence.signed_by == (PUBLISHER.public.id,)
    assert candidate.evidence.publisher == "acme"
    assert verify_artifact(candidate.store.read(candidate.pin), candidate.pin.digest).manifest == candidate.pin.manifest
    assert sourcing.revocations["hf://acme"].sequence == 1


def test_a_default_registry_on_the_hub_is_read_likewise(hub, published, trust, pulled):
    sourcing = open_sources("hf://acme", trust=trust, enforce=False, references=["inferaligner@^1"], pulled=pulled)
    (candidate,) = found(sourcing, "inferaligner@^1")
    assert candidate.pin.digest == published.entry.digest


def test_in_mode_enforce_nobody_is_asked(hub, published, trust, pulled):
    before = len(hub.requests)
    with pytest.raises(StaleError, match="no list of revocations"):
        open_sources(None, trust=trust, references=[REFERENCE], pulled=pulled)
    open_sources(None, trust=trust, enforce=False, references=[REFERENCE], pulled=pulled)
    asked = len(hub.requests)
    assert asked > before
    sourcing = open_sources("hf://acme", trust=trust, references=[REFERENCE], pulled=pulled)
    for text in (REFERENCE, "inferaligner@^1"):
        with pytest.raises(UnlockedArtifactError):
            found(sourcing, text)
    assert len(hub.requests) == asked


def test_a_policy_of_local_references_asks_nobody_in_any_mode(hub, published, trust, pulled):
    open_sources(None, trust=trust, enforce=False, references=[REFERENCE], pulled=pulled)
    before = len(hub.requests)
    sourcing = open_sources(None, trust=trust, enforce=False, references=["harmful-intent@^2"], pulled=pulled)
    assert next(sourcing.sources.candidates(parse_reference("harmful-intent@^2"))).store.name == "embedded"
    assert len(hub.requests) == before


def test_what_the_hub_revoked_is_refused_at_once(hub, published, trust, pulled, tmp_path):
    revoke(
        HubClient(hub.endpoint, hub.token),
        organisation="acme",
        pulled=PulledArtifacts(tmp_path / "desk"),
        signer=PUBLISHER,
        artifacts=[revoked(digest=published.entry.digest)],
    )
    sourcing = open_sources(None, trust=trust, enforce=False, references=[REFERENCE], pulled=pulled)
    with pytest.raises(RevokedError):
        found(sourcing, REFERENCE)


def test_a_registry_without_keys_is_not_read(hub, published, trust, pulled):
    remote = remote_registries(load_trust(trust), pulled)
    before = len(hub.requests)
    with pytest.raises(SignatureError, match="names no keys"):
        remote("hf://other")
    assert len(hub.requests) == before
    assert remote("hf://acme") is remote("hf://acme")


def test_registries_are_named_in_every_form(tmp_path, pulled):
    registry = create_registry(tmp_path / "registry")
    registry.add(write_folder(tmp_path / "artifact", sample_files()))
    for form in (registry, registry.root, str(registry.root), registry.name):
        sourcing = open_sources(form, pulled=pulled)
        assert sourcing.sources.default.name == registry.name
        assert [one.pin.variant for one in found(sourcing, "inferaligner@^1")] == ["tiny"]
    assert open_sources(None, pulled=pulled).sources.default.name == embedded_registry().name
    with pytest.raises(SignatureError, match="under a trust policy"):
        open_sources("hf://acme", pulled=pulled)


def test_without_a_trust_policy_there_is_nothing_to_watch(tmp_path, pulled):
    sourcing = open_sources(None, pulled=pulled)
    assert sourcing.trust is None
    assert sourcing.revocations == {}
    assert not pulled.root.exists()


def test_a_trust_policy_that_names_no_registry_needs_no_list(tmp_path, pulled):
    file = tmp_path / "trust.yaml"
    file.write_text("apiVersion: steerguard/v1alpha1\nkind: TrustPolicy\n")
    sourcing = open_sources(None, trust=file, pulled=pulled)
    assert sourcing.revocations == {}
    assert not pulled.root.exists()
    assert sourcing.trust is not None
    assert sourcing.trust.keys_of_registry("hf://acme", datetime.now(UTC)) == ()
