"""Attacks on the lock file: edited by hand, and edited with care, so that its own digest is right again."""

from __future__ import annotations

import json
import os

import pytest
from tests.attacked_artifacts import (
    NEW,
    OLD,
    ORGANISATION,
    POLICY,
    REPO,
    WEIGHTS,
    pinned,
)
from tests.attacked_registry import local_registry
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import HUB, OWNER, revoked

from steerguard.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    LockFormatError,
    LockMismatchError,
    RegistryAccessError,
    RevokedError,
    RollbackError,
    SignatureError,
    UnlockedArtifactError,
)
from steerguard.hub.pull import pull
from steerguard.hub.revoke import revoke
from steerguard.policy.load import parse_policy
from steerguard.registry.lockfile import LockedRegistry, lockfile_of, write_lock

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


def locked_as(scene, version):
    """What a lock says of the other published version."""
    entry = scene.entry(version)
    files = scene.registry().pin(entry).manifest.files
    listed = tuple(
        scene.lock.artifacts[0].files[0].model_copy(update={"path": one.path, "sha256": one.sha256, "size": one.size})
        for one in files
    )
    return {"version": version, "digest": entry.digest, "commit": entry.commit, "files": listed}


def test_lock_edited_by_hand(scene):
    """Its own digest is wrong then."""
    honest = scene.lock_path.read_bytes()
    for old, new in ((scene.digest, "sha256:" + "0" * 64), (scene.commit, "0" * 40), (NEW, OLD)):
        scene.lock_path.write_bytes(honest.replace(old.encode(), new.encode()))
        scene.wrap_refuses(LockFormatError, "edited", lock=scene.lock_path)
    scene.lock_path.write_bytes(json.dumps(json.loads(honest)).encode())
    scene.wrap_refuses(LockFormatError, "normal form", lock=scene.lock_path)
    scene.lock_path.write_bytes(honest)
    scene.wrap(lock=scene.lock_path)
    scene.works()


def test_lock_edited_digest(scene):
    """The digest of the old version, which is signed and on this machine, under the name of the new one."""
    pull(scene.client, scene.entry(OLD), scene.store)
    lock = scene.relocked(digest=scene.entry(OLD).digest)
    scene.refuses(ArtifactFormatError, lambda: scene.load(lock=lock), "different artifacts")
    scene.wrap_refuses(ArtifactFormatError, lock=lock)
    nothing = scene.relocked(digest="sha256:" + "0" * 64)
    scene.wrap_refuses(ArtifactNotFoundError, lock=nothing)
    scene.refuses(ArtifactIntegrityError, lambda: scene.sync(nothing), scene.commit)
    scene.works()


def test_lock_edited_commit(scene):
    """A commit says where to fetch, not what: other bytes are refused, and those that are here stay in use."""
    other = scene.hub.repository(REPO).plant({WEIGHTS: b"other"})
    lock = scene.relocked(commit=other)
    assert scene.load(lock=lock) == pinned(scene.published[NEW])
    scene.forget_artifact()
    scene.refuses(ArtifactIntegrityError, lambda: scene.sync(lock), other)
    scene.refuses(ArtifactNotFoundError, lambda: scene.sync(scene.relocked(commit="0" * 40)), "0" * 40)
    scene.wrap_refuses(ArtifactNotFoundError, lock=lock)
    scene.works()


def test_lock_edited_repository(scene):
    lock = scene.relocked(repo="acme/other")
    scene.forget_artifact()
    scene.refuses((ArtifactNotFoundError, RegistryAccessError), lambda: scene.sync(lock), "acme/other")
    scene.wrap_refuses(ArtifactNotFoundError, lock=lock)
    scene.works()


@pytest.mark.parametrize("version", ["2.0.0", "0.9.0"])
def test_lock_edited_version_outside_the_range(scene, version):
    lock = scene.relocked(version=version)
    scene.refuses(LockMismatchError, lambda: scene.load(lock=lock), version)
    scene.wrap_refuses(LockMismatchError, version, lock=lock)
    scene.works()


@pytest.mark.parametrize("changes", [{"family": "other"}, {"variant": "other"}, {"version": "1.0.7"}])
def test_lock_edited_name(scene, changes):
    lock = scene.relocked(**changes)
    scene.refuses((LockMismatchError, ArtifactError), lambda: scene.load(lock=lock))
    scene.wrap_refuses((LockMismatchError, ArtifactError), lock=lock)
    scene.works()


def test_lock_edited_files(scene):
    files = scene.lock.artifacts[0].files
    for changed in (
        files[1:],
        (files[0].model_copy(update={"sha256": "0" * 64}), *files[1:]),
        (files[0].model_copy(update={"size": files[0].size + 1}), *files[1:]),
    ):
        lock = scene.relocked(files=changed)
        scene.refuses(LockMismatchError, lambda lock=lock: scene.load(lock=lock), "other files")
        scene.wrap_refuses(LockMismatchError, lock=lock)
    scene.works()


def test_lock_edited_registry(scene):
    """The same artifact, from a folder that the attacker fills: the reference names the Hub."""
    local = local_registry(scene)
    registries = [LockedRegistry(registry=local.registry.name, index_sequence=None, index_sha256=None, revocations_sequence=None)]  # fmt: skip
    moved = scene.lock.artifacts[0].model_copy(update={"registry": local.registry.name, "repo": None, "commit": None})
    lock = lockfile_of(scene.lock.policies, registries, [moved])
    scene.refuses(LockMismatchError, lambda: scene.load(lock=lock), HUB)
    scene.wrap_refuses(LockMismatchError, HUB, lock=lock)
    scene.works()


def test_lock_edited_evidence(scene):
    """What the lock says of signatures and vetting is a record; what counts is asked again each time."""
    bare = scene.relocked(signed_by=(), vetting=None)
    assert scene.load(lock=bare) == pinned(scene.published[NEW])
    for file in (scene.placed / "attestations").iterdir():
        file.unlink()
    scene.wrap_refuses(SignatureError, "not signed as the trust policy requires", lock=scene.lock)
    scene.wrap_refuses(SignatureError, "not signed as the trust policy requires", lock=bare)
    scene.works()


def test_lock_edited_to_nothing(scene):
    lock = lockfile_of(scene.lock.policies, scene.lock.registries, [])
    scene.refuses(UnlockedArtifactError, lambda: scene.load(lock=lock), "hf://acme/harmful-intent")
    scene.wrap_refuses(UnlockedArtifactError, lock=lock)
    scene.works()


def test_lock_edited_to_an_older_version(scene):
    """Whoever may write the lock chooses among signed versions; a revoked one is refused all the same."""
    lock = scene.relocked(**locked_as(scene, OLD))
    scene.sync(lock)
    assert scene.load(lock=lock) == pinned(scene.published[OLD])
    named = revoked(family="harmful-intent", range=f"<{NEW}")
    revoke(scene.owner, ORGANISATION, artifacts=[named], signer=OWNER, pulled=scene.desk)
    scene.sync(lock)
    scene.refuses(RevokedError, lambda: scene.load(lock=lock), OLD)
    scene.wrap_refuses(RevokedError, OLD, lock=lock)
    scene.works()


def test_lock_edited_sequences(scene):
    """A floor that is too high is refused; one that was lowered does not lower what this machine has seen."""
    seen = scene.lock.registries[0]
    high = seen.model_copy(update={"index_sequence": 99, "index_sha256": "0" * 64})
    scene.refuses(RollbackError, lambda: scene.sync(lockfile_of(scene.lock.policies, [high], scene.lock.artifacts)))
    low = seen.model_copy(update={"index_sequence": None, "index_sha256": None, "revocations_sequence": None})
    lock = lockfile_of(scene.lock.policies, [low], scene.lock.artifacts)
    index = scene.registry().state().index
    honest = scene.index_file("index.dsse.json")
    scene.sign_index(index.artifacts, index.sequence - 1)
    scene.refuses(RollbackError, lambda: scene.sync(lock), "sequence 2 or higher")
    scene.plant_index("index.dsse.json", honest)
    scene.works()


def test_lock_of_another_policy(scene):
    """The policy was changed after locking: another text, and nobody has looked at what it needs."""
    loose = parse_policy(POLICY.replace("action: refuse", "action: allow"), file="attacked.yaml")
    before = scene.policy
    scene.policy = loose
    scene.wrap_refuses(LockMismatchError, loose.digest)
    scene.policy = before
    scene.works()


def test_lock_edited_policy(scene):
    policy = scene.lock.policies[0].model_copy(update={"digest": "sha256:" + "0" * 64})
    lock = lockfile_of([policy], scene.lock.registries, scene.lock.artifacts)
    scene.wrap_refuses(LockMismatchError, scene.policy.digest, lock=lock)
    scene.works()


def test_lock_that_is_no_file(scene):
    honest = scene.lock_path.read_bytes()
    scene.lock_path.unlink()
    scene.wrap_refuses(LockFormatError, "steerguard lock", lock=scene.lock_path)
    os.mkfifo(scene.lock_path)
    scene.wrap_refuses(LockFormatError, "regular file", lock=scene.lock_path)
    scene.lock_path.unlink()
    scene.lock_path.write_bytes(honest[: len(honest) // 2])
    scene.wrap_refuses(LockFormatError, lock=scene.lock_path)
    write_lock(scene.lock_path, scene.lock)
    assert scene.lock_path.read_bytes() == honest
    scene.works()
