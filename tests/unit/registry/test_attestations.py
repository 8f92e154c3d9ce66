"""Files that vouch for an artifact: beside it, outside its digest, put there atomically."""

from __future__ import annotations

import errno
import os

import pytest
from tests.artifact_samples import sample_files, write_folder

from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactNotFoundError
from steerguard.registry.attestations import MAX_ATTESTATION_BYTES
from steerguard.registry.local import LocalDirectory, create_registry, embedded_registry
from steerguard.registry.store import families_of, pinned_of

PATH = "attestations/release.someone.json"


@pytest.fixture
def registry(tmp_path):
    registry = create_registry(tmp_path / "registry")
    registry.add(write_folder(tmp_path / "artifact", sample_files()))
    return registry


def entry_of(registry):
    (entry,) = registry.entries()
    return entry


def folder_of(registry):
    return registry.root / "inferaligner" / "tiny" / "1.0.0"


def test_an_attestation_is_stored_beside_the_artifact_and_changes_nothing_else(registry):
    entry = entry_of(registry)
    (pin,) = pinned_of(registry, "inferaligner")
    before = dict(registry.read(pin))
    assert registry.attestations(entry) == {}
    registry.attest(entry, PATH, b"{}")
    registry.attest(entry, "attestations/other.json", b"[]")
    assert registry.attestations(entry) == {PATH: b"{}", "attestations/other.json": b"[]"}
    assert entry_of(registry) == entry
    assert dict(registry.read(pin)) == {**before, **registry.attestations(entry)}
    assert sorted(path.name for path in registry.root.iterdir()) == ["index.json", "inferaligner"]


def test_an_attestation_of_the_same_path_is_replaced(registry):
    for content in (b"{}", b"[]"):
        registry.attest(entry_of(registry), PATH, content)
    assert registry.attestations(entry_of(registry)) == {PATH: b"[]"}


@pytest.mark.parametrize(
    "path", ["release.json", "attestations/../x.json", "attestations/a/b.json", "README.md", "attestations/run.py", "/x.json"]
)  # fmt: skip
def test_only_paths_of_attestations_are_written(registry, path):
    with pytest.raises(ArtifactFormatError):
        registry.attest(entry_of(registry), path, b"{}")
    assert registry.attestations(entry_of(registry)) == {}


def test_an_oversized_attestation_is_neither_written_nor_read(registry):
    with pytest.raises(ArtifactFormatError, match="attestation"):
        registry.attest(entry_of(registry), PATH, b" " * (MAX_ATTESTATION_BYTES + 1))
    registry.attest(entry_of(registry), PATH, b" " * MAX_ATTESTATION_BYTES)
    os.truncate(folder_of(registry) / PATH, MAX_ATTESTATION_BYTES + 1)
    with pytest.raises(ArtifactFormatError, match="too large"):
        registry.attestations(entry_of(registry))


def test_there_is_a_limit_on_how_many_there_are(registry):
    for index in range(64):
        registry.attest(entry_of(registry), f"attestations/{index}.json", b"{}")
    with pytest.raises(ArtifactFormatError, match="too many attestations"):
        registry.attest(entry_of(registry), PATH, b"{}")
    registry.attest(entry_of(registry), "attestations/0.json", b"[]")
    (folder_of(registry) / PATH).write_bytes(b"{}")
    with pytest.raises(ArtifactFormatError, match="too many attestations"):
        registry.attestations(entry_of(registry))


def test_what_the_index_does_not_list_is_not_attested(registry):
    other = entry_of(registry).model_copy(update={"digest": "sha256:" + "0" * 64})
    with pytest.raises(ArtifactNotFoundError, match="does not list"):
        registry.attest(other, PATH, b"{}")
    with pytest.raises(ArtifactNotFoundError):
        registry.attestations(entry_of(registry).model_copy(update={"version": "9.0.0"}))


def test_links_and_foreign_names_among_attestations_are_refused(registry, tmp_path):
    registry.attest(entry_of(registry), PATH, b"{}")
    (tmp_path / "elsewhere.json").write_bytes(b"{}")
    link = folder_of(registry) / "attestations" / "link.json"
    link.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ArtifactFormatError, match="symlink"):
        registry.attestations(entry_of(registry))
    link.unlink()
    (link.parent / "notes.txt").touch()
    with pytest.raises(ArtifactFormatError, match="notes"):
        registry.attestations(entry_of(registry))


def test_a_linked_folder_of_attestations_is_refused(registry, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder_of(registry) / "attestations").symlink_to(tmp_path / "elsewhere")
    for use in (registry.attestations, lambda entry: registry.attest(entry, PATH, b"{}")):
        with pytest.raises(ArtifactFormatError, match="symlink"):
            use(entry_of(registry))
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("kept", [False, True])
def test_a_full_disk_keeps_what_was_there(registry, monkeypatch, kept):
    if kept:
        registry.attest(entry_of(registry), PATH, b"{}")
    before = registry.attestations(entry_of(registry))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="No space left"):
            registry.attest(entry_of(registry), PATH, b"[]")
    assert registry.attestations(entry_of(registry)) == before
    assert not list(registry.root.glob(".staging-*"))


def test_a_registry_is_named_after_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert LocalDirectory("my registry").name == f"file://{tmp_path}/my%20registry"
    assert LocalDirectory(tmp_path / "a" / ".." / "b").name == f"file://{tmp_path}/b"
    assert embedded_registry().name == "embedded"
    assert families_of(embedded_registry()) == embedded_registry().families()
