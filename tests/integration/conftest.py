"""The registry that attacks are tried on: made once, copied for each test."""

from __future__ import annotations

import pytest
from tests.attacked_registry import attacked_scene, make_honest


@pytest.fixture(scope="session")
def honest_registry(tmp_path_factory):
    """Folder with a hub, a publisher and a reader before any attack; nothing changes in it."""
    root = tmp_path_factory.mktemp("honest") / "root"
    root.mkdir()
    make_honest(root)
    return root


@pytest.fixture
def scene(honest_registry, tmp_path, monkeypatch):
    """A copy of the honest registry, served, to be attacked."""
    with attacked_scene(honest_registry, tmp_path / "scene", monkeypatch) as scene:
        yield scene
