"""Ids as git computes them, histories as values, and a folder that outlives the process and never holds a part."""

from __future__ import annotations

import os
import random
import subprocess
from dataclasses import replace

import pytest

from steerguard.errors import ArtifactNotFoundError, RegistryUnavailableError
from steerguard.testing import LoopbackHub
from steerguard.testing.loopback_hub.blobs import FolderBlobs, MemoryBlobs, write_whole
from steerguard.testing.loopback_hub.history import check_parent, with_branch, with_tag, without_branch, without_tag
from steerguard.testing.loopback_hub.objects import blob_oid, folder_oids, large_file, large_file_pointer, regular_file
from steerguard.testing.loopback_hub.records import FolderRecords, parse_record, record_bytes
from steerguard.testing.loopback_hub.refusals import Refusal
from steerguard.testing.loopback_hub.repositories import Repositories
from steerguard.testing.loopback_hub.uploads import apply_operations, check_path, is_large, parse_commit

FILES = {
    "README.md": b"# Probe",
    "weights/a.safetensors": b"\0" * 200,
    "weights/deep/b.json": b"{}",
    "weights.json": b"",
}


def git(folder, *arguments, text=None):
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *arguments], cwd=folder, input=text, env=environment, check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.fixture
def repository(tmp_path):
    """A repository on disk with two commits: the first one, and FILES."""
    repositories = Repositories(FolderBlobs(tmp_path / "blobs"), FolderRecords(tmp_path / "repositories"))
    repository = repositories.create("model", "acme/probe", author="ada")
    repository.plant(FILES)
    return repository


def status(call, *arguments):
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    return caught.value.status


class TestIds:
    def test_blobs_and_trees_have_the_ids_that_git_gives_them(self, tmp_path):
        git(tmp_path, "init", "-q")
        entries = [regular_file(path, content) for path, content in FILES.items() if "safetensors" not in path]
        weights = FILES["weights/a.safetensors"]
        entries.append(large_file("weights/a.safetensors", "ab" * 32, len(weights)))
        for entry in entries:
            path = tmp_path / entry.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(large_file_pointer("ab" * 32, len(weights)) if entry.lfs else FILES[entry.path])
            assert git(tmp_path, "hash-object", entry.path) == entry.oid
        git(tmp_path, "-c", "core.autocrlf=false", "add", "-A")
        root = git(tmp_path, "write-tree")
        oids = folder_oids(entries)
        assert oids[""] == root
        assert oids["weights"] == git(tmp_path, "rev-parse", f"{root}:weights")
        assert oids["weights/deep"] == git(tmp_path, "rev-parse", f"{root}:weights/deep")

    def test_an_empty_blob_and_tree_have_the_well_known_ids(self):
        assert blob_oid(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        assert folder_oids([]) == {"": "4b825dc642cb6eb9a060e54bf8d69288fbee4904"}

    def test_commits_of_equal_content_have_ids_of_their_own(self, repository):
        oids = {repository.plant(FILES, message="same") for _ in range(3)}
        assert len(oids) == 3
        assert len({commit.tree for commit in repository.commits[1:]}) == 1


class TestHistory:
    def test_a_revision_is_a_branch_a_tag_or_an_id(self, repository):
        head = repository.head
        history = with_tag(repository.history, "v1", "main")
        for revision in ("main", "refs/heads/main", "v1", "refs/tags/v1", head, head[:7]):
            assert history.at(revision).oid == head
        for revision in ("absent", head[:6], "0" * 40, ""):
            assert status(history.at, revision) == 404

    def test_references_are_refused_where_they_exist_or_are_no_names(self, repository):
        history = with_branch(with_tag(repository.history, "v1", "main"), "next", "main")
        assert status(with_tag, history, "v1", "main") == 409
        assert status(with_branch, history, "next", "main") == 409
        assert status(without_branch, history, "main") == 400
        assert status(without_branch, history, "absent") == 404
        assert status(without_tag, history, "absent") == 404
        for name in ("", "a b", "../up", "a" * 40, "-x"):
            assert status(with_tag, history, name, "main") == 400

    def test_a_parent_must_be_the_newest_commit(self):
        head = "ab" * 20
        for known in (None, head, head[:7]):
            check_parent(known, head)
        for known in ("cd" * 20, head[:6], ""):
            assert status(check_parent, known, head) == 412


class TestOperations:
    def lines(self, *lines):
        header = '{"key":"header","value":{"summary":"x","description":""}}'
        return parse_commit("\n".join([header, *lines]).encode())

    @pytest.mark.parametrize(
        "path", ["/a", "../a", "a/../b", "a//b", ".git/config", "a/.git/b", "", "a\\b", "a\nb", 7, None]
    )
    def test_paths_that_lead_elsewhere_are_refused(self, path):
        assert status(check_path, path) == 400

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"x",
            b"[]",
            b'{"key":"file","value":{}}',
            b'{"key":"header","value":{}}',
            b'{"key":"header","value":7}\n{}',
        ],
    )
    def test_bodies_that_are_no_commit_are_refused(self, body):
        assert status(parse_commit, body) == 400

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ('{"key":"file","value":{"path":"a","content":"!","encoding":"base64"}}', 400),
            ('{"key":"file","value":{"path":"a"}}', 400),
            ('{"key":"lfsFile","value":{"path":"a","algo":"sha256","oid":"../../etc","size":1}}', 400),
            ('{"key":"lfsFile","value":{"path":"a","algo":"sha256","oid":"' + "ab" * 32 + '","size":1}}', 400),
            ('{"key":"deletedFile","value":{"path":"absent"}}', 404),
            ('{"key":"deletedFolder","value":{"path":"README.md/"}}', 404),
            ('{"key":"file","value":{"path":"README.md/x","content":""}}', 400),
            ('{"key":"symlink","value":{"path":"a"}}', 400),
        ],
    )
    def test_operations_that_cannot_be_done_are_refused(self, repository, line, expected):
        files = repository.history.at("main").files
        assert status(apply_operations, files, self.lines(line), MemoryBlobs(), "c") == expected

    def test_a_large_file_of_another_size_is_refused(self, repository):
        blobs = MemoryBlobs()
        oid = blobs.put(b"abc")
        line = '{"key":"lfsFile","value":{"path":"a","algo":"sha256","oid":"%s","size":%d}}'
        assert status(apply_operations, {}, self.lines(line % (oid, 4)), blobs, "c") == 400
        assert apply_operations({}, self.lines(line % (oid, 3)), blobs, "c")["a"].lfs

    def test_weights_and_big_files_are_large_and_empty_ones_never(self):
        assert is_large("a.safetensors", 1)
        assert is_large("a.txt", 10 * 1024 * 1024 + 1)
        assert not is_large("a.txt", 10 * 1024 * 1024)
        assert not is_large("a.safetensors", 0)


class TestFolder:
    def test_a_hub_on_a_folder_serves_what_it_served_before(self, tmp_path):
        with LoopbackHub(tmp_path) as hub:
            created = hub._repositories.create("dataset", "acme/steerguard-index", private=True, author="ada")
            commit = created.plant(FILES)
            created.move_tag("v1", commit)
            created.set_access(gated="auto", readers=["eve"])
            before = created.history
        with LoopbackHub(tmp_path) as hub:
            after = hub.repository("acme/steerguard-index", "dataset")
            assert after.history == before
            assert after.files("v1") == {**FILES, ".gitattributes": after.files()[".gitattributes"]}

    def test_a_deleted_or_moved_repository_does_not_come_back(self, tmp_path):
        with LoopbackHub(tmp_path) as hub:
            for name in ("acme/a", "acme/b"):
                hub._repositories.create("model", name, author="ada")
            hub._repositories.delete("model", "acme/a")
            hub._repositories.move("model", "acme/b", "lab/c")
        with LoopbackHub(tmp_path) as hub:
            assert [known.history.id for known in hub._repositories.of_type("model")] == ["lab/c"]

    def test_a_repository_that_cannot_be_kept_stays_as_it_was(self, repository, monkeypatch):
        before = repository.history

        def full(path, content):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("steerguard.testing.loopback_hub.records.write_whole", full)
        with pytest.raises(OSError, match="No space"):
            repository.plant({"a": b"1"})
        assert repository.history is before

    def test_a_file_is_written_whole_or_not_at_all(self, tmp_path, monkeypatch):
        write_whole(tmp_path / "a", b"old")

        def full(number):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(tmp_path / "a", b"new")
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert (tmp_path / "a").read_bytes() == b"old"

    def test_a_changed_handle_of_a_deleted_repository_changes_nothing(self, tmp_path):
        records = FolderRecords(tmp_path)
        repositories = Repositories(MemoryBlobs(), records)
        repository = repositories.create("model", "acme/a", author="ada")
        repositories.delete("model", "acme/a")
        assert status(repository.plant, {"a": b"1"}) == 404
        assert list(records.load()) == []

    def test_a_record_round_trips_and_a_spoiled_one_is_named(self, repository, tmp_path):
        content = record_bytes(repository.history)
        assert parse_record(content, where=tmp_path) == repository.history
        shuffled = random.Random(0)
        messages = []
        for _ in range(200):
            at = shuffled.randrange(len(content))
            spoiled = content[:at] + bytes([shuffled.randrange(256)]) + content[at + 1 :]
            try:
                parse_record(spoiled, where=tmp_path)
            except RegistryUnavailableError as problem:
                messages.append(str(problem))
        assert len(messages) > 20
        assert all(str(tmp_path) in message for message in messages)
        newer = replace(repository.history, id="acme/b")
        with pytest.raises(RegistryUnavailableError, match="version 9"):
            parse_record(record_bytes(newer).replace(b'"version": 1', b'"version": 9'), where=tmp_path)

    def test_bytes_are_found_by_their_digest_only(self, tmp_path):
        for blobs in (MemoryBlobs(), FolderBlobs(tmp_path)):
            digest = blobs.put(b"abc")
            assert blobs.put(b"abc") == digest
            assert (blobs.size(digest), blobs.read(digest), blobs.size("0" * 64)) == (3, b"abc", None)
            with pytest.raises(KeyError):
                blobs.read("0" * 64)

    def test_what_is_not_there_is_named_with_what_is(self, repository):
        with pytest.raises(ArtifactNotFoundError, match="absent"):
            repository.files("absent")
        with LoopbackHub() as hub, pytest.raises(ArtifactNotFoundError, match="acme/probe"):
            hub.repository("acme/probe")

    def test_a_hub_that_was_never_served_has_no_address(self):
        with pytest.raises(RegistryUnavailableError, match="before it is served"):
            assert LoopbackHub().endpoint
