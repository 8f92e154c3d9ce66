"""Two writers at once, as threads and as processes: each does its whole work, and nobody's work is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.attacked_artifacts import (
    FAMILY,
    NEW,
    OLD,
    ORGANISATION,
    VARIANT,
    WEIGHTS,
    artifact_files,
    pinned,
    vouched,
    write,
)
from tests.attacked_processes import run_together
from tests.attacked_registry import local_registry
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import OWNER, revoked

from steerguard.errors import ArtifactError
from steerguard.hub.footing import Floor
from steerguard.hub.pull import pull
from steerguard.hub.revoke import revoke
from steerguard.registry.local import LocalDirectory
from steerguard.registry.lockfile import lockfile_of, read_lock, write_lock
from steerguard.registry.pulled import PulledArtifacts

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


def together(*calls):
    """Run calls at the same time in threads, and return what they return."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [one.result() for one in [pool.submit(call) for call in calls]]


def versions(scene):
    return [entry.version for entry in scene.registry().entries()]


def folders(scene, *more):
    return [write(scene.folder / version, vouched(artifact_files(version))) for version in more]


def desk(scene, name):
    return PulledArtifacts(scene.folder / name)


def test_two_publishers_at_once(scene):
    """Threads: of two versions of one repository, from two machines."""
    one, two = folders(scene, "1.2.0", "1.3.0")
    together(lambda: scene.publish(one, pulled=desk(scene, "a")), lambda: scene.publish(two, pulled=desk(scene, "b")))
    assert versions(scene) == [OLD, NEW, "1.2.0", "1.3.0"]
    for version in ("1.2.0", "1.3.0"):
        pull(scene.client, scene.entry(version), scene.store)
        assert scene.store.sound(scene.entry(version).digest)
    scene.works()


def test_two_publishers_of_one_version_at_once(scene):
    """The same version with the same bytes: published once, however many do it."""
    (folder,) = folders(scene, "1.2.0")
    together(*(lambda name=name: scene.publish(folder, pulled=desk(scene, name)) for name in "ab"))
    assert versions(scene) == [OLD, NEW, "1.2.0"]
    scene.works()


def test_two_publishers_as_processes(scene):
    one, two = folders(scene, "1.2.0", "1.3.0")
    done = run_together(scene, ("publish", one, scene.folder / "a"), ("publish", two, scene.folder / "b"))
    assert done == [[None], [None]]
    assert versions(scene) == [OLD, NEW, "1.2.0", "1.3.0"]
    scene.works()


def test_publisher_and_revoker_at_once(scene):
    """Index and list lie in one repository: neither undoes the other."""
    (folder,) = folders(scene, "1.2.0")
    for family in ("one", "two", "three"):
        together(
            lambda: scene.publish(folder, pulled=desk(scene, "a")),
            lambda family=family: revoke(
                scene.owner,
                ORGANISATION,
                artifacts=[revoked(family=family)],
                signer=OWNER,
                pulled=desk(scene, "b"),
                at_least=Floor(index=1, revocations=1),
            ),
        )
    assert versions(scene) == [OLD, NEW, "1.2.0"]
    listed = scene.registry().state().revocations.artifacts
    assert [one.family for one in listed] == ["one", "two", "three"]
    scene.works()


def test_two_pulls_at_once(scene):
    scene.forget_artifact()
    together(*[scene.sync] * 4)
    assert scene.store.sound(scene.digest)
    scene.forget_artifact()
    assert run_together(scene, ("sync",), ("sync",)) == [[None], [None]]
    assert scene.store.sound(scene.digest)
    assert not (scene.store.root / "quarantine").exists()
    scene.works()


def test_two_repairs_at_once(scene):
    (scene.placed / WEIGHTS).write_bytes(b"damaged")
    together(*[scene.sync] * 3)
    assert scene.store.sound(scene.digest)
    assert len(list((scene.store.root / "quarantine").iterdir())) == 1
    scene.works()


def test_repair_while_it_is_read(scene):
    """Whoever reads meanwhile gets the published bytes or an error; never a mixture."""
    honest = pinned(scene.published[NEW])
    found = []

    def read():
        for _ in range(25):
            try:
                found.append(scene.load() == honest)
            except ArtifactError:
                found.append(None)

    def damage_and_repair():
        for _ in range(4):
            (scene.placed / WEIGHTS).write_bytes(b"damaged")
            scene.sync()

    together(read, damage_and_repair)
    assert set(found) <= {True, None}
    scene.works()


def test_two_local_adds_at_once(scene):
    local = local_registry(scene)
    more = ["1.2.0", "1.3.0", "1.4.0", "1.5.0"]
    parts = folders(scene, *more)
    root = local.registry.root
    together(*(lambda part=part: LocalDirectory(root).add(part) for part in parts[:2]))
    assert run_together(scene, ("add", parts[2], root), ("add", parts[3], root)) == [[None], [None]]
    assert [entry.version for entry in local.registry.entries()] == [OLD, NEW, *more]
    for entry in local.registry.entries():
        assert local.registry.pin(entry).digest == entry.digest
    assert sorted(path.name for path in (root / FAMILY / VARIANT).iterdir()) == [OLD, NEW, *more]
    scene.works()


def test_two_locks_at_once(scene):
    """The file is one of the two, whole, at every moment."""
    other = lockfile_of(scene.lock.policies, scene.lock.registries, [])
    seen = []

    def write_often(lock):
        for _ in range(20):
            write_lock(scene.lock_path, lock)
            seen.append(read_lock(scene.lock_path) in (scene.lock, other))

    together(lambda: write_often(scene.lock), lambda: write_often(other))
    assert all(seen)
    write_lock(scene.lock_path, scene.lock)
    scene.wrap(lock=scene.lock_path)
    scene.works()
