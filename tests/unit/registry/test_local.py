from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import signal
import socket

import pytest
from tests.artifact_samples import VECTORS, digest_of, sample_files, write_folder

from steerguard.artifacts.manifest import manifest_digest
from steerguard.artifacts.paths import MANIFEST, MAX_FILE_BYTES, MAX_WEIGHTS_BYTES
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
)
from steerguard.registry.local import LocalDirectory, create_registry, embedded_registry, open_registry
from steerguard.registry.staging import registry_lock


@pytest.fixture
def registry(tmp_path):
    return create_registry(tmp_path / "registry")


def source(tmp_path, **changes):
    files = sample_files(**changes)
    name = f"{changes.get('family', 'a')}-{changes.get('variant', 'b')}-{changes.get('version', 'c')}-{len(list(tmp_path.iterdir()))}"
    return write_folder(tmp_path / name, files), files


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_an_added_artifact_is_pinned_read_and_verified(tmp_path, registry):
    folder, files = source(tmp_path)
    pin = registry.add(folder)
    assert pin.digest == digest_of(files)
    assert registry.families() == ("inferaligner",)
    assert registry.pinned("inferaligner") == (pin,)
    assert dict(registry.read(pin)) == files
    assert verify_artifact(registry.read(pin), pin.digest).manifest == pin.manifest


def test_highest_versions_come_first(tmp_path, registry):
    for version in ("1.2.0", "1.10.0", "0.9.0"):
        registry.add(source(tmp_path, version=version)[0])
    registry.add(source(tmp_path, version="1.10.0", variant="alpha")[0])
    assert [f"{pin.variant} {pin.version}" for pin in registry.pinned("inferaligner")] == [
        "alpha 1.10.0",
        "tiny 1.10.0",
        "tiny 1.2.0",
        "tiny 0.9.0",
    ]


def test_adding_the_same_again_changes_nothing(tmp_path, registry):
    folder, _ = source(tmp_path)
    pin = registry.add(folder)
    before = tree(registry.root)
    assert registry.add(folder) == pin
    assert tree(registry.root) == before


def test_a_version_never_changes(tmp_path, registry):
    registry.add(source(tmp_path)[0])
    before = tree(registry.root)
    with pytest.raises(ArtifactIntegrityError, match="higher version"):
        registry.add(source(tmp_path, license="mit")[0])
    assert tree(registry.root) == before


def test_what_is_added_is_what_was_verified_before(tmp_path, registry):
    verified, _ = source(tmp_path)
    digest = manifest_digest((verified / MANIFEST).read_bytes())
    swapped, _ = source(tmp_path, license="mit")
    before = tree(registry.root)
    with pytest.raises(ArtifactIntegrityError, match="not the one that was pinned"):
        registry.add(swapped, digest=digest)
    assert tree(registry.root) == before
    assert registry.add(verified, digest=digest).digest == digest


def test_a_damaged_artifact_is_not_added(tmp_path, registry):
    folder, _ = source(tmp_path)
    (folder / "README.md").write_text("other")
    before = tree(registry.root)
    with pytest.raises(ArtifactIntegrityError, match=r"README\.md"):
        registry.add(folder)
    assert tree(registry.root) == before


def test_a_folder_without_manifest_is_not_added(tmp_path, registry):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="manifest"):
        registry.add(tmp_path / "empty")
    with pytest.raises(ArtifactNotFoundError):
        registry.add(tmp_path / "absent")


@pytest.mark.parametrize("failing", range(12))
def test_a_full_disk_leaves_the_registry_as_it_was(tmp_path, registry, monkeypatch, failing):
    registry.add(source(tmp_path)[0])
    folder, files = source(tmp_path, version="2.0.0", variant="second")
    before = tree(registry.root)
    calls = iter(range(100))
    real = os.fsync

    def full(descriptor):
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="No space left"):
            registry.add(folder)
    assert tree(registry.root) == before
    assert sorted(path.name for path in registry.root.iterdir()) == ["index.json", "inferaligner"]
    assert registry.add(folder).digest == digest_of(files)


def test_an_unwritable_root_is_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError):
        LocalDirectory(tmp_path / "absent").add(source(tmp_path)[0])


def test_what_an_interrupted_addition_left_behind_is_replaced(tmp_path, registry):
    folder, files = source(tmp_path)
    write_folder(registry.root / "inferaligner" / "tiny" / "1.0.0", {"README.md": b"half"})
    assert registry.families() == ()
    pin = registry.add(folder)
    assert dict(registry.read(pin)) == files
    assert not list(registry.root.glob(".staging-*"))


def test_staging_of_a_killed_writer_goes_with_the_next_addition(tmp_path, registry):
    folder, _ = source(tmp_path)
    outside = write_folder(tmp_path / "outside", {"kept": b"x"})
    write_folder(registry.root / ".staging-0000000000000000", {"artifact/README.md": b"half"})
    (registry.root / ".staging-1111111111111111").write_bytes(b"half a list of revocations")
    (registry.root / ".staging-2222222222222222").symlink_to(outside)
    registry.add(folder)
    assert sorted(path.name for path in registry.root.iterdir()) == ["index.json", "inferaligner"]
    assert tree(outside) == {"kept": b"x"}


def test_a_registry_whose_making_was_interrupted_is_made(tmp_path):
    root = tmp_path / "registry"
    write_folder(root / ".staging-0000000000000000", {"index.json": b"{"})
    assert open_registry(root).entries() == ()
    assert [path.name for path in root.iterdir()] == ["index.json"]


def test_a_folder_with_something_else_is_not_made_a_registry(tmp_path):
    write_folder(tmp_path / "photos", {"cat.jpg": b"x", ".staging-0000000000000000": b"x"})
    with pytest.raises(ArtifactNotFoundError, match="not a registry"):
        open_registry(tmp_path / "photos")
    assert tree(tmp_path / "photos") == {"cat.jpg": b"x", ".staging-0000000000000000": b"x"}


def add_in_process(root, folder):
    LocalDirectory(root).add(folder)


def test_a_child_that_was_forked_meanwhile_does_not_keep_the_registry_locked(registry):
    with registry_lock(registry.root):
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    descriptor = os.open(registry.root, os.O_RDONLY)
    try:
        # Raises at once where the child still holds it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_processes_that_add_at_once_lose_nothing(tmp_path, registry):
    folders = [source(tmp_path, version=f"1.{index}.0")[0] for index in range(4)]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_in_process, args=(registry.root, folder)) for folder in folders]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(registry.pinned("inferaligner")) == 4


def added(tmp_path, registry):
    pin = registry.add(source(tmp_path)[0])
    return pin, registry.root / "inferaligner" / "tiny" / "1.0.0"


@pytest.mark.parametrize("name", ["README.md", VECTORS, "recipe.yaml"])
def test_a_symlink_in_place_of_a_file_is_refused(tmp_path, registry, name):
    pin, folder = added(tmp_path, registry)
    (folder / name).rename(tmp_path / "moved")
    (folder / name).symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactFormatError, match="symlink"):
        registry.read(pin)


@pytest.mark.parametrize("level", ["weights", "", "..", "../.."])
def test_a_symlink_in_place_of_a_folder_is_refused(tmp_path, registry, level):
    pin, folder = added(tmp_path, registry)
    target = (folder / level).resolve()
    target.rename(tmp_path / "moved")
    target.symlink_to(tmp_path / "moved")
    with pytest.raises(ArtifactFormatError, match="symlink"):
        registry.read(pin)


def test_a_symlinked_manifest_or_index_is_refused(tmp_path, registry):
    _, folder = added(tmp_path, registry)
    (folder / "manifest.json").rename(tmp_path / "manifest.json")
    (folder / "manifest.json").symlink_to(tmp_path / "manifest.json")
    with pytest.raises(ArtifactFormatError, match="symlink"):
        registry.pinned("inferaligner")
    (registry.root / "index.json").rename(tmp_path / "index.json")
    (registry.root / "index.json").symlink_to(tmp_path / "index.json")
    with pytest.raises(ArtifactFormatError, match="symlink"):
        registry.families()


def test_pipes_and_sockets_are_refused_without_waiting(tmp_path, registry, monkeypatch):
    pin, folder = added(tmp_path, registry)
    (folder / "recipe.yaml").unlink()
    os.mkfifo(folder / "recipe.yaml")
    with pytest.raises(ArtifactFormatError, match="a pipe"):
        registry.read(pin)
    (folder / "recipe.yaml").unlink()
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("recipe.yaml")
        with pytest.raises(ArtifactFormatError, match="a socket"):
            registry.read(pin)


@pytest.mark.parametrize("name", ["setup.py", ".hidden", "weights/model.bin", "weights/inner", "notes"])
def test_foreign_names_are_refused(tmp_path, registry, name):
    pin, folder = added(tmp_path, registry)
    if "." in name:
        (folder / name).touch()
    else:
        (folder / name).mkdir()
    with pytest.raises(ArtifactFormatError, match=name) as caught:
        registry.read(pin)
    assert "inferaligner/tiny" in str(caught.value)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path, registry):
    pin, folder = added(tmp_path, registry)
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    with pytest.raises(ArtifactFormatError, match="a folder"):
        registry.read(pin)


@pytest.mark.parametrize(("name", "limit"), [(VECTORS, MAX_WEIGHTS_BYTES), ("README.md", MAX_FILE_BYTES)])
def test_oversized_files_are_refused_before_they_are_read(tmp_path, registry, name, limit):
    pin, folder = added(tmp_path, registry)
    os.truncate(folder / name, limit + 1)
    with pytest.raises(ArtifactFormatError, match="too large"):
        registry.read(pin)


def test_an_artifact_that_is_too_large_as_a_whole_is_refused_before_it_is_read(tmp_path, registry):
    pin, folder = added(tmp_path, registry)
    for number in range(3):
        (folder / "weights" / f"{number}.safetensors").touch()
        os.truncate(folder / "weights" / f"{number}.safetensors", MAX_WEIGHTS_BYTES)
    with pytest.raises(ArtifactFormatError, match="artifact is too large"):
        registry.read(pin)


def test_too_many_files_are_refused(tmp_path, registry):
    pin, folder = added(tmp_path, registry)
    (folder / "attestations").mkdir()
    for index in range(200):
        (folder / "attestations" / f"{index}.json").touch()
    with pytest.raises(ArtifactFormatError, match="too many"):
        registry.read(pin)


def test_a_manifest_that_the_index_does_not_pin_is_refused(tmp_path, registry):
    _, folder = added(tmp_path, registry)
    (folder / "manifest.json").write_bytes(sample_files(license="mit")["manifest.json"])
    with pytest.raises(ArtifactIntegrityError, match=r"where: inferaligner/tiny@1\.0\.0/manifest\.json"):
        registry.pinned("inferaligner")


def test_an_artifact_in_another_s_place_is_refused(tmp_path, registry):
    _, folder = added(tmp_path, registry)
    index = registry.root / "index.json"
    index.write_bytes(index.read_bytes().replace(b"1.0.0", b"1.0.1"))
    folder.rename(folder.parent / "1.0.1")
    with pytest.raises(ArtifactFormatError, match="different artifacts"):
        registry.pinned("inferaligner")


def test_a_listed_artifact_that_is_gone_is_named(tmp_path, registry):
    pin, folder = added(tmp_path, registry)
    shutil.rmtree(folder)
    with pytest.raises(ArtifactNotFoundError):
        registry.pinned("inferaligner")
    with pytest.raises(ArtifactNotFoundError):
        registry.read(pin)


def test_an_unlisted_folder_does_not_exist(tmp_path, registry):
    write_folder(registry.root / "inferaligner" / "tiny" / "1.0.0", sample_files())
    assert registry.families() == ()
    assert registry.pinned("inferaligner") == ()


def test_a_folder_without_index_is_not_a_registry(tmp_path):
    with pytest.raises(ArtifactNotFoundError, match="not a registry"):
        LocalDirectory(tmp_path).families()


def test_a_registry_is_not_made_over_another(registry):
    with pytest.raises(ArtifactError, match="cannot be made"):
        create_registry(registry.root)


def test_every_embedded_artifact_verifies():
    registry = embedded_registry()
    for family in registry.families():
        for pin in registry.pinned(family):
            assert verify_artifact(registry.read(pin), pin.digest).manifest == pin.manifest
