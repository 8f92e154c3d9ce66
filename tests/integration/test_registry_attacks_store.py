"""Attacks on the reader's own store between two runs: what was pulled, what is half pulled, and what is remembered."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pytest
from tests.attacked_artifacts import (
    NEW,
    OLD,
    ORGANISATION,
    WEIGHTS,
    pinned,
    present,
)
from tests.attacked_processes import run_alone
from tests.attacked_registry import local_registry
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import HUB, OWNER, STRANGER, revocations, revoked, signed_list

from steerguard.canonical import canonical_bytes
from steerguard.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    RevokedError,
    RollbackError,
    SignatureError,
    StaleError,
    VettingError,
)
from steerguard.hub.pull import pull
from steerguard.hub.revoke import revoke
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.signed_index import SIGNED_INDEX

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

PINNED = ("manifest.json", WEIGHTS, "weights/fingerprint.safetensors", "calibration.json", "benchmarks.json", "README.md", "recipe.yaml")  # fmt: skip


def quarantined(scene):
    """What lies in quarantine."""
    folder = scene.store.root / "quarantine"
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("path", PINNED)
def test_store_poisoned_between_runs(scene, path):
    """Each kind of file: with that of another version, cut short, and emptied."""
    scene.wrap()
    file = scene.placed / path
    honest = file.read_bytes()
    for poison in (scene.published[OLD][path] + b" ", honest[: len(honest) // 2], b""):
        file.write_bytes(poison)
        scene.refuses(ArtifactIntegrityError, scene.load, path)
    scene.wrap_refuses(ArtifactIntegrityError, path)
    assert scene.sync().repaired == (f"harmful-intent/tiny@{NEW}",)
    assert [(one / path).read_bytes() for one in quarantined(scene)] == [b""]
    scene.works()


def test_store_poisoned_with_another_sound_artifact(scene):
    """The folder of the new version holds the old one, whole and signed."""
    pull(scene.client, scene.entry(OLD), scene.store)
    shutil.rmtree(scene.placed)
    shutil.copytree(scene.store.folder(scene.entry(OLD).digest), scene.placed)
    scene.refuses((ArtifactIntegrityError, SignatureError), scene.load)
    scene.wrap_refuses((ArtifactIntegrityError, SignatureError), NEW)
    scene.works()
    assert len(quarantined(scene)) == 1


def test_store_emptied(scene):
    scene.forget_artifact()
    scene.wrap_refuses(ArtifactNotFoundError, "steerguard sync")
    scene.placed.mkdir()
    scene.wrap_refuses((ArtifactError, SignatureError))
    scene.works()


def test_store_with_a_file_in_place_of_a_folder(scene):
    scene.forget_artifact()
    scene.placed.write_bytes(b"no folder")
    scene.wrap_refuses(ArtifactFormatError)
    scene.works()


def test_partial_download_poisoned(scene):
    """What lies there from an earlier attempt is hashed before it is used."""
    scene.forget_artifact()
    work = scene.store.partial(scene.digest)
    entries = {one.path: one for one in scene.lock.artifacts[0].files}
    (work / "parts").mkdir()
    (work / "parts" / entries[WEIGHTS].sha256).write_bytes(b"\0" * entries[WEIGHTS].size)
    (work / "artifact" / "weights").mkdir(parents=True)
    (work / "artifact" / "recipe.yaml").write_bytes(b"x" * entries["recipe.yaml"].size)
    (work / "artifact" / "README.md").symlink_to(scene.lock_path)
    (work / "artifact" / "weights" / "evil.py").write_bytes(b"import os")
    honest = scene.lock_path.read_bytes()
    scene.works()
    assert scene.lock_path.read_bytes() == honest


@pytest.mark.parametrize("poison", [b"", b"{}", b"\xff" * 100, b"[" * 100000])
def test_remembered_state_poisoned(scene, poison):
    """Rubbish proves nothing: a list that is none is refused, and the next sync replaces both documents."""
    for name in (SIGNED_INDEX, REVOCATIONS):
        scene.store.remember(HUB, name, poison)
    scene.refuses(SignatureError, scene.load, REVOCATIONS, wrap=True)
    scene.works()


def test_remembered_state_of_a_stranger(scene):
    """With a sequence that no honest list reaches."""
    blocking = revocations(HUB, sequence=2**53 - 1, issued=present())
    scene.store.remember(HUB, REVOCATIONS, signed_list(blocking, STRANGER))
    scene.refuses(SignatureError, scene.load, REVOCATIONS, wrap=True)
    scene.works()


def test_remembered_state_deleted(scene):
    """Without a list nothing loads; with the Hub's present one everything does."""
    shutil.rmtree(scene.store.root / "registries")
    scene.refuses(StaleError, scene.load, HUB, wrap=True)
    scene.works()


def test_remembered_state_rolled_back(scene):
    """An older list, rightly signed, in the place of the newest: it counts until it is too old or the Hub is asked."""
    before = scene.store.remembered(HUB)[REVOCATIONS]
    revoke(scene.owner, ORGANISATION, artifacts=[revoked(digest=scene.digest)], signer=OWNER, pulled=scene.desk)
    scene.sync()
    scene.wrap_refuses(RevokedError, NEW)
    scene.store.remember(HUB, REVOCATIONS, before)
    scene.sync()
    scene.wrap_refuses(RevokedError, NEW)
    old = revocations(HUB, sequence=1, issued=present() - timedelta(days=8))
    scene.store.remember(HUB, REVOCATIONS, signed_list(old, OWNER))
    scene.wrap_refuses(StaleError, HUB)
    scene.sync()
    scene.wrap_refuses(RevokedError, NEW)


@pytest.mark.parametrize("name", [SIGNED_INDEX, REVOCATIONS])
def test_remembered_state_behind_a_link(scene, name):
    """To the very same bytes; the next sync puts a file in its place, and what the link led to stays."""
    file = next((scene.store.root / "registries").iterdir()) / name
    elsewhere = scene.folder / "elsewhere.json"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    scene.refuses(ArtifactFormatError, scene.load, wrap=True)
    honest = elsewhere.read_bytes()
    scene.works()
    assert not file.is_symlink()
    assert file.read_bytes() == elsewhere.read_bytes() == honest


def test_origins_poisoned(scene):
    """The record says that other attestations were checked; they are fetched again."""
    file = next((scene.store.root / "origins").iterdir())
    for file_content in (b"", b"{}", b'{"attestations":{},"seen":[]}', b"\xff"):
        file.write_bytes(file_content)
        assert scene.load() == pinned(scene.published[NEW])
        scene.sync()
        assert scene.store.sound(scene.digest)
    scene.works()


@pytest.mark.parametrize("poison", [b"", b"\xff" * 100, None], ids=["empty", "rubbish", "link"])
def test_remembered_state_of_a_local_registry_poisoned(scene, poison):
    """The list lies at the registry's root: it counts, and it is remembered again."""
    local = local_registry(scene)
    local.works()
    honest = scene.store.remembered(local.registry.name)[REVOCATIONS]
    file = next(path for path in (scene.store.root / "registries").rglob(REVOCATIONS) if path.read_bytes() == honest)
    if poison is None:
        file.unlink()
        file.symlink_to(scene.lock_path)
    else:
        file.write_bytes(poison)
    local.works()
    assert scene.store.remembered(local.registry.name)[REVOCATIONS] == honest
    older = revocations(local.registry.name, sequence=1, issued=present() - timedelta(days=1))
    (local.registry.root / REVOCATIONS).write_bytes(signed_list(older, OWNER))
    scene.refuses(RollbackError, local.load, local.registry.name)
    (local.registry.root / REVOCATIONS).write_bytes(honest)
    local.works()


@pytest.mark.parametrize("kind", ["release", "vetting"])
def test_attestation_taken_away_with_its_record(scene, kind):
    """The record of origins agrees that there was none: the artifact is sound, and still nobody vouches for it."""
    next((scene.placed / "attestations").glob(f"{kind}.*")).unlink()
    file = next((scene.store.root / "origins").iterdir())
    record = json.loads(file.read_bytes())
    record["attestations"] = {path: digest for path, digest in record["attestations"].items() if kind not in path}
    file.write_bytes(canonical_bytes(record))
    assert scene.store.sound(scene.digest)
    scene.refuses(SignatureError if kind == "release" else VettingError, scene.load, wrap=True)
    assert scene.sync().attested == (f"harmful-intent/tiny@{NEW}",)
    scene.works()


def test_read_only_store(scene):
    """What is there is used; what would have to be written is refused, and says how to go on."""
    folders = [path for path in (scene.store.root, *scene.store.root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert run_alone(scene, "check+sync", powerless=True) == [None, None]
    finally:
        for folder in folders:
            folder.chmod(0o755)
    scene.works()


def test_read_only_store_without_the_artifact(scene):
    scene.forget_artifact()
    folders = [path for path in (scene.store.root, *scene.store.root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert run_alone(scene, "check+sync", powerless=True) == ["ArtifactNotFoundError", "ArtifactError"]
    finally:
        for folder in folders:
            folder.chmod(0o755)
    scene.works()


def test_unreadable_store(scene):
    scene.placed.chmod(0o000)
    try:
        assert run_alone(scene, "check+sync", powerless=True) == ["ArtifactError", "ArtifactError"]
    finally:
        scene.placed.chmod(0o755)
    scene.works()
