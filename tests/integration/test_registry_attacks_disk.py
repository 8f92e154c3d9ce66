"""A disk that is full, for each thing that writes: the step fails with an error that says so, and nothing is lost.

The system itself refuses every byte beyond a limit (`RLIMIT_FSIZE`), in a process of its own. The limits are chosen so
that the first, a middle and the last file that a step writes is the one that does not fit.
"""

from __future__ import annotations

import pytest
from tests.attacked_artifacts import (
    NEW,
    OLD,
    artifact_files,
    pinned,
    vouched,
    write,
)
from tests.attacked_processes import run_alone
from tests.attacked_registry import local_registry
from tests.loopback_hubs import REGULAR_UPLOAD

from steerguard.registry.lockfile import read_lock

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

LIMITS = (1, 40, 300, 500, 1000, 1700)


def debris(folder):
    """Files that a step has left behind in its own working folders."""
    return [
        path for path in folder.rglob("*") if path.is_file() and ("scratch-" in str(path) or ".staging" in str(path))
    ]


def only(found, *allowed):
    """Every limit that was too low gave one of these errors, and the lowest did."""
    assert found[0] in allowed
    assert set(found) <= {None, *allowed}


def test_disk_full_during_pull(scene):
    scene.forget_artifact()
    only(run_alone(scene, "sync", limits=LIMITS), "ArtifactError")
    assert scene.store.has(scene.digest) <= scene.store.sound(scene.digest)
    assert debris(scene.store.root) == []
    scene.works()


def test_disk_full_on_a_new_machine(scene):
    """Nothing remembered yet: index, list, files and the record of origins must all be written."""
    scene.new_machine()
    only(run_alone(scene, "sync", limits=LIMITS), "ArtifactError")
    assert scene.store.has(scene.digest) <= scene.store.sound(scene.digest)
    assert debris(scene.store.root) == []
    scene.works()


def test_disk_full_while_damage_is_repaired(scene):
    """The damaged copy goes to quarantine only when a sound one is here."""
    (scene.placed / "README.md").write_bytes(b"damaged")
    only(run_alone(scene, "sync", limits=LIMITS[:3]), "ArtifactError")
    assert (scene.placed / "README.md").read_bytes() == b"damaged"
    scene.works()


def test_disk_full_during_publish(scene):
    """Reading back does not fit: the version is not listed, and the same command finishes later."""
    folder = write(scene.folder / "next", vouched(artifact_files("1.2.0")))
    desk = scene.folder / "desk"
    before = [entry.version for entry in scene.registry().entries()]
    found = run_alone(scene, "publish", folder, desk, limits=LIMITS[:3])
    only(found, "ArtifactError")
    assert None not in found
    assert [entry.version for entry in scene.registry().entries()] == before
    scene.works()
    assert run_alone(scene, "publish", folder, desk) == [None]
    assert [entry.version for entry in scene.registry().entries()] == [OLD, NEW, "1.2.0"]
    scene.works()


def test_disk_full_during_revoke(scene):
    """The list on the Hub is old or new; a second try says nothing twice."""
    desk = scene.folder / "desk"
    only(run_alone(scene, "revoke", "other", desk, limits=(1, 300, 0, 0)), "ArtifactError")
    assert [one.family for one in scene.registry().state().revocations.artifacts] == ["other"]
    scene.works()


def test_disk_full_during_local_add(scene):
    local = local_registry(scene)
    folder = write(scene.folder / "next", artifact_files("1.2.0"))
    before = local.registry.entries()
    found = run_alone(scene, "add", folder, local.registry.root, limits=LIMITS[:4])
    only(found, "ArtifactError")
    assert None not in found
    assert local.registry.entries() == before
    assert not (local.registry.root / "harmful-intent" / "tiny" / "1.2.0").exists()
    assert debris(local.registry.root) == []
    local.works()
    assert run_alone(scene, "add", folder, local.registry.root) == [None]
    assert len(local.registry.entries()) == 3


def test_disk_full_during_local_revoke(scene):
    local = local_registry(scene)
    path = local.registry.root / "revocations.dsse.json"
    before = path.read_bytes()
    only(run_alone(scene, "revoke locally", local.registry.root, "other", limits=(1, 300)), "ArtifactError")
    assert path.read_bytes() == before
    assert debris(local.registry.root) == []
    local.works()


def test_disk_full_during_lock(scene):
    before = scene.lock_path.read_bytes()
    only(run_alone(scene, "write lock", limits=(1, 300, len(before) - 1)), "LockError")
    assert scene.lock_path.read_bytes() == before
    assert [path.name for path in scene.folder.glob(".steerguard.lock.*")] == []
    assert read_lock(scene.lock_path) == scene.lock
    assert scene.load() == pinned(scene.published[NEW])
    scene.works()
