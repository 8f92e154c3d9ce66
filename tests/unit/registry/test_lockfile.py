from __future__ import annotations

import json
import os
import stat

import pytest
from jsonschema import validate
from tests.registry_documents import DIGEST, HEX, OTHER_DIGEST, locked_artifact, lockfile

from steerguard.canonical import canonical_bytes, sha256_hex
from steerguard.errors import LockError, LockFormatError
from steerguard.registry import lockfile as module
from steerguard.registry import staging
from steerguard.registry.file_lock import file_lock
from steerguard.registry.lockfile import (
    LockedFile,
    LockedRegistry,
    lock_bytes,
    lockfile_of,
    parse_lock,
    read_lock,
    write_lock,
)
from steerguard.registry.schemas import document_schema


def text_of(data):
    return json.dumps(data, sort_keys=True, indent=2).encode() + b"\n"


def resealed(edit):
    """The bytes of the sample after an edit that makes the digest true again."""
    data = json.loads(lock_bytes(lockfile()))
    edit(data)
    rest = {key: value for key, value in data.items() if key != "content_sha256"}
    return text_of(data | {"content_sha256": sha256_hex(canonical_bytes(rest))})


def test_a_lock_survives_its_bytes():
    lock = lockfile()
    content = lock_bytes(lock)
    assert parse_lock(content, where="guard.lock") == lock
    assert lock_bytes(parse_lock(content, where="guard.lock")) == content
    validate(json.loads(content), document_schema("lockfile.v1alpha1"))


def test_the_order_of_what_is_given_does_not_matter():
    one, two = locked_artifact(), locked_artifact(variant="large", version="1.10.0")
    three = locked_artifact(variant="large", version="1.9.0")
    assert lock_bytes(lockfile(one, two, three)) == lock_bytes(lockfile(three, two, one))
    assert [artifact.version for artifact in lockfile(one, two, three).artifacts] == ["1.9.0", "1.10.0", "1.2.0"]


def test_a_lock_is_lines_that_a_review_can_read():
    lines = lock_bytes(lockfile()).decode("ascii").splitlines()
    assert lines[0] == "{"
    assert f'      "digest": "{DIGEST}",' in lines


def test_an_edit_by_hand_is_noticed():
    content = lock_bytes(lockfile()).replace(DIGEST.encode(), OTHER_DIGEST.encode())
    with pytest.raises(LockFormatError, match="was edited"):
        parse_lock(content, where="guard.lock")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"null\n",
        b"[]\n",
        b"\xff",
        b"[" * 100_000,
        b"1" * 5000 + b"\n",
        lock_bytes(lockfile())[:-1],
        lock_bytes(lockfile()) + b"\n",
        lock_bytes(lockfile()).replace(b"\n", b"\r\n"),
        canonical_bytes(json.loads(lock_bytes(lockfile()))),
        lock_bytes(lockfile()).replace(b'"kind"', b'"kind": "Lockfile",\n  "kind"'),
        b"<<<<<<< HEAD\n" + lock_bytes(lockfile()),
    ],
)
def test_another_form_is_refused_with_the_way_out(content):
    with pytest.raises(LockFormatError, match="steerguard lock"):
        parse_lock(content, where="guard.lock")


def _artifact(**changes):
    return lambda data: data["artifacts"][0].update(changes)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (_artifact(repo=None), "on the Hub"),
        (_artifact(commit=None), "on the Hub"),
        (_artifact(commit="main"), "commit"),
        (lambda data: data["artifacts"][1].update(repo="acme/refusal-tiny"), "on the Hub"),
        (_artifact(registry="hf://other"), "does not list"),
        (_artifact(version="1.2"), "version"),
        (_artifact(digest="md5:0"), "digest"),
        (_artifact(files=[]), "files"),
        (_artifact(files=[{"path": "../x.json", "sha256": HEX, "size": 1}]), "name"),
        (_artifact(files=[{"path": "code.py", "sha256": HEX, "size": 1}]), "name"),
        (_artifact(files=[{"path": "README.md", "sha256": HEX, "size": -1}]), "size"),
        (_artifact(signed_by=["somebody"]), "signed_by"),
        (_artifact(vetting={"level": 4, "sha256": HEX}), "vetting.level"),
        (_artifact(extra=1), "extra"),
        (lambda data: data["artifacts"][0]["files"].reverse(), "order"),
        (lambda data: data["artifacts"].reverse(), "order"),
        (lambda data: data["artifacts"].append(data["artifacts"][-1]), "order"),
        (lambda data: data["registries"].reverse(), "order"),
        (lambda data: data["registries"][1].update(index_sha256=None), "sequence and a digest"),
        (lambda data: data["policies"][0]["references"].reverse(), "order"),
        (lambda data: data["policies"][0].update(digest="x"), "digest"),
        (lambda data: data.update(kind="Policy"), "kind"),
        (lambda data: data.update(extra=1), "extra"),
        (lambda data: data.pop("sdk"), "sdk"),
    ],
)
def test_a_lock_that_contradicts_itself_is_refused(edit, named):
    with pytest.raises(LockFormatError, match=named):
        parse_lock(resealed(edit), where="guard.lock")


def test_one_version_has_one_digest():
    with pytest.raises(LockFormatError, match="two digests"):
        lockfile(locked_artifact(), locked_artifact(reference="hf://acme/refusal@*", digest=OTHER_DIGEST))


def test_paths_that_differ_in_case_only_are_refused():
    files = tuple(LockedFile(path=f"weights/{name}.safetensors", sha256=HEX, size=1) for name in ("A", "a"))
    with pytest.raises(LockFormatError, match="twice"):
        lockfile(locked_artifact(files=files))


def test_a_lock_that_was_changed_after_it_was_made_is_not_written(tmp_path):
    lock = lockfile().model_copy(update={"sdk": "9.9"})
    with pytest.raises(LockFormatError, match="was edited"):
        write_lock(tmp_path / "guard.lock", lock)
    assert list(tmp_path.iterdir()) == []


def test_a_large_lock_is_not_parsed(monkeypatch):
    content = lock_bytes(lockfile())
    monkeypatch.setattr(module, "MAX_LOCK_BYTES", len(content) - 1)
    with pytest.raises(LockFormatError, match="too large"):
        parse_lock(content, where="guard.lock")


def test_a_written_lock_reads_back_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "guard.lock"
    write_lock(path, lockfile())
    assert read_lock(path) == lockfile()
    empty = lockfile_of((), (), ())
    write_lock(path, empty)
    assert read_lock(path) == empty
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_ISREG(path.lstat().st_mode)


def test_a_lock_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "guard.lock"
    write_lock(path, lockfile())

    def full(descriptor):
        os.ftruncate(descriptor, 10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(staging.os, "fsync", full)
    with pytest.raises(LockError, match="No space left"):
        write_lock(path, lockfile_of((), (), ()))
    monkeypatch.undo()
    assert read_lock(path) == lockfile()
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_beside_a_lock_is_removed_and_nothing_else(tmp_path):
    path = tmp_path / "guard.lock"
    dead, living = (tmp_path / f".guard.lock.{digit * 16}" for digit in "ab")
    other = [tmp_path / name for name in (".guard.lock.swp", ".other.lock.aaaaaaaaaaaaaaaa", "guard.lock.orig")]
    for file in (dead, living, *other):
        file.write_bytes(b"half")
    with file_lock(living):
        write_lock(path, lockfile())
    assert sorted(tmp_path.iterdir()) == sorted([path, living, *other])
    assert read_lock(path) == lockfile()


def test_a_missing_lock_a_folder_and_a_pipe_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.lock")
    for path in (tmp_path / "missing.lock", tmp_path, tmp_path / "pipe.lock", tmp_path / "nul\0.lock"):
        with pytest.raises(LockFormatError):
            read_lock(path)


def test_a_lock_in_a_missing_folder_cannot_be_written(tmp_path):
    with pytest.raises(LockError, match="No such file"):
        write_lock(tmp_path / "absent" / "guard.lock", lockfile())


def test_a_registry_is_listed_once():
    registry = LockedRegistry(registry="embedded", index_sequence=None, index_sha256=None, revocations_sequence=None)
    with pytest.raises(LockFormatError, match="order"):
        lockfile_of((), (registry, registry), ())
