"""The real client on a loopback hub: what tests set so that it goes online, and only there."""

from __future__ import annotations

from contextlib import contextmanager

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, constants
from huggingface_hub.errors import HfHubHTTPError

from steerguard.errors import ArtifactNotFoundError
from steerguard.hub.footing import Floor
from steerguard.hub.read_index import index_repository
from steerguard.registry.signed_index import SIGNED_INDEX

REGULAR_UPLOAD = "ignore:Use 'content=<...>' to upload raw bytes/text content:DeprecationWarning"
"""The client hands files to its HTTP library in a deprecated way; nothing here can change that."""

REPO = "acme/probe"
CARD = b"---\nlicense: apache-2.0\ntags:\n- steerguard\nbase_model: acme/base\n---\n\n# Probe\n"
WEIGHTS = bytes(range(256)) * 300


def additions(**more):
    """A card, a manifest and weights, and what else is asked for, as operations of one commit."""
    files = {"README.md": CARD, "manifest.json": b"{}", "weights/probe.safetensors": WEIGHTS, **more}
    return [CommitOperationAdd(path, content) for path, content in files.items()]


def publish_first(api):
    """Create the repository and return its first commit with content."""
    api.create_repo(REPO)
    return api.create_commit(REPO, additions(), commit_message="Publish 1.0.0", commit_description="All of it.").oid


def status_of(call, *arguments, **settings):
    """The HTTP status that a call of the client fails with."""
    with pytest.raises(HfHubHTTPError) as caught:
        call(*arguments, **settings)
    return caught.value.response.status_code


def footing(hub, organisation="acme"):
    """What an honest writer says of a registry: that it begins it, or that it exists; a store remembers the rest."""
    try:
        begun = SIGNED_INDEX in hub.repository(index_repository(organisation), "dataset").files()
    except ArtifactNotFoundError:
        begun = False
    return {"at_least": Floor(index=1, revocations=1)} if begun else {"new_registry": True}


@contextmanager
def client_online(hub, folder):
    """The client of this process goes to `hub` without being told, keeps all it has under `folder`, and ends clean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HOME", str(folder))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(constants, "HF_ASSETS_CACHE", str(folder / "assets"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
        patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(folder / "stored_tokens"))
        patch.delenv("HF_TOKEN", raising=False)
        huggingface_hub.close_session()
        try:
            yield
        finally:
            huggingface_hub.close_session()
