"""The contract of repositories, commits, references and trees: calls of the real client get from the loopback hub what they would get from the Hub."""

from __future__ import annotations

import hashlib
import io

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from tests.loopback_hubs import CARD, REGULAR_UPLOAD, REPO, WEIGHTS, additions, client_online, publish_first, status_of

from steerguard.testing import LoopbackHub

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


@pytest.fixture
def hub(tmp_path):
    disable_progress_bars()
    with LoopbackHub(page_size=3) as hub, client_online(hub, tmp_path / "home"):
        yield hub
    enable_progress_bars()


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def first(api):
    """The first commit of a repository with a card, a manifest and weights."""
    return publish_first(api)


class TestAccountsAndRepositories:
    def test_whoami_names_the_account_and_its_organisations(self, hub, api):
        token = hub.add_user("ada", ["acme", "lab"])
        assert api.whoami()["name"] == "writer"
        told = api.whoami(token=token)
        assert (told["name"], [org["name"] for org in told["orgs"]]) == ("ada", ["acme", "lab"])

    def test_a_token_that_nobody_has_is_refused(self, api, hub):
        assert status_of(api.whoami, token="hf_nobody") == 401
        token = hub.add_user("ada")
        hub.withdraw_token(token)
        assert status_of(api.whoami, token=token) == 401

    def test_create_repo_makes_models_and_data_sets(self, hub, api):
        url = api.create_repo(REPO)
        data = api.create_repo("acme/steerguard-index", repo_type="dataset", private=True)
        assert (url.repo_id, url.repo_type, data.repo_id, data.repo_type) == (
            REPO,
            "model",
            "acme/steerguard-index",
            "dataset",
        )
        assert api.repo_info("acme/steerguard-index", repo_type="dataset").private
        assert api.list_repo_files(REPO) == [".gitattributes"]

    def test_create_repo_of_a_name_alone_is_in_the_namespace_of_the_user(self, api):
        assert api.create_repo("probe").repo_id == "writer/probe"

    def test_create_repo_twice_is_a_conflict_unless_asked(self, api):
        api.create_repo(REPO)
        assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
        assert status_of(api.create_repo, REPO) == 409

    def test_create_repo_in_the_namespace_of_others_is_forbidden(self, hub, api):
        assert status_of(api.create_repo, REPO, token=hub.add_user("eve")) == 403

    def test_delete_repo_removes_it(self, api, first):
        api.delete_repo(REPO)
        assert not api.repo_exists(REPO)
        api.delete_repo(REPO, missing_ok=True)
        with pytest.raises(RepositoryNotFoundError):
            api.delete_repo(REPO)

    def test_move_repo_keeps_the_commits_under_the_new_name_only(self, api, first):
        api.move_repo(REPO, "lab/probe")
        assert api.model_info("lab/probe").sha == first
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(REPO)

    def test_settings_make_a_repository_private_and_gated(self, hub, api, first):
        api.update_repo_settings(REPO, private=True, gated="manual")
        info = api.model_info(REPO)
        assert (info.private, info.gated) == (True, "manual")
        api.update_repo_settings(REPO, private=False, gated=False)
        assert api.model_info(REPO).gated is False


class TestCommits:
    def test_one_commit_adds_regular_and_large_files(self, hub, api, first):
        info = api.model_info(REPO, files_metadata=True)
        by_path = {sibling.rfilename: sibling for sibling in info.siblings}
        assert info.sha == first
        assert by_path["weights/probe.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert by_path["manifest.json"].lfs is None
        assert hub.repository(REPO).files() == {
            ".gitattributes": hub.repository(REPO).files()[".gitattributes"],
            "README.md": CARD,
            "manifest.json": b"{}",
            "weights/probe.safetensors": WEIGHTS,
        }

    def test_one_commit_replaces_and_deletes_files_and_folders(self, hub, api, first):
        operations = [
            CommitOperationAdd("manifest.json", b'{"v":2}'),
            CommitOperationDelete("weights/"),
            CommitOperationDelete("README.md"),
        ]
        second = api.create_commit(REPO, operations, commit_message="Publish 2.0.0", parent_commit=first).oid
        assert api.list_repo_files(REPO, revision=second) == [".gitattributes", "manifest.json"]
        assert "weights/probe.safetensors" in api.list_repo_files(REPO, revision=first)

    def test_a_stale_parent_changes_nothing(self, hub, api, first):
        second = api.create_commit(REPO, additions(a=b"1"), commit_message="x", parent_commit=first).oid
        call = {"commit_message": "y", "parent_commit": first}
        assert status_of(api.create_commit, REPO, additions(a=b"2"), **call) == 412
        assert hub.repository(REPO).head == second
        assert hub.repository(REPO).files()["a"] == b"1"

    def test_files_that_are_there_already_are_not_sent_again(self, hub, api, first):
        hub.forget_requests()
        assert api.create_commit(REPO, additions(), commit_message="again").oid == first
        assert not [line for line in hub.requests if "/commit/" in line or line.startswith("PUT")]

    def test_large_files_go_up_in_parts(self, tmp_path):
        with LoopbackHub(part_bytes=10_000) as hub, client_online(hub, tmp_path):
            api = HfApi(endpoint=hub.endpoint, token=hub.token)
            api.create_repo(REPO)
            api.create_commit(REPO, additions(), commit_message="x")
            assert len([line for line in hub.requests if line.startswith("PUT")]) == 8
            assert hub.repository(REPO).files()["weights/probe.safetensors"] == WEIGHTS

    def test_a_hub_without_large_files_keeps_everything_in_git(self, tmp_path):
        big = b"0" * (10 * 1024 * 1024 + 1)
        with LoopbackHub(large_files=False) as hub, client_online(hub, tmp_path):
            api = HfApi(endpoint=hub.endpoint, token=hub.token)
            api.create_repo(REPO)
            api.create_commit(REPO, additions(big=big), commit_message="x")
            assert not [line for line in hub.requests if line.startswith("PUT")]
            assert hub.repository(REPO).files()["big"] == big
            assert all(entry.lfs is None for entry in api.get_paths_info(REPO, ["big", "weights/probe.safetensors"]))

    def test_a_large_file_inside_the_repository_can_be_copied(self, hub, api, first):
        copy = CommitOperationCopy("weights/probe.safetensors", "weights/copy.safetensors")
        api.create_commit(REPO, [copy], commit_message="copy")
        assert hub.repository(REPO).files()["weights/copy.safetensors"] == WEIGHTS

    def test_file_objects_and_empty_files_go_up(self, hub, api, first):
        api.upload_file(path_or_fileobj=io.BytesIO(WEIGHTS[1:]), path_in_repo="b.safetensors", repo_id=REPO)
        api.upload_file(path_or_fileobj=b"", path_in_repo="empty.safetensors", repo_id=REPO)
        files = hub.repository(REPO).files()
        assert (files["b.safetensors"], files["empty.safetensors"]) == (WEIGHTS[1:], b"")

    def test_deleting_what_is_not_there_is_an_entry_not_found(self, api, first):
        with pytest.raises(EntryNotFoundError):
            api.delete_file("absent.json", REPO)

    def test_a_commit_to_a_missing_branch_is_a_revision_not_found(self, api, first):
        with pytest.raises(RevisionNotFoundError):
            api.create_commit(REPO, additions(a=b"1"), commit_message="x", revision="absent")

    def test_pull_requests_are_refused_by_name(self, api, first):
        with pytest.raises(BadRequestError, match="no pull requests"):
            api.create_commit(REPO, additions(a=b"1"), commit_message="x", create_pr=True)

    def test_the_log_tells_commits_newest_first_in_pages(self, hub, api, first):
        for number in range(5):
            api.create_commit(REPO, additions(a=bytes([number])), commit_message=f"step {number}")
        log = api.list_repo_commits(REPO)
        assert [entry.title for entry in log] == [f"step {n}" for n in (4, 3, 2, 1, 0)] + [
            "Publish 1.0.0",
            "initial commit",
        ]
        assert (log[5].commit_id, log[5].message, log[5].authors) == (first, "All of it.", ["writer"])
        assert api.list_repo_commits(REPO, revision=first)[0].commit_id == first


class TestReferences:
    def test_a_tag_names_a_commit_until_it_is_deleted(self, api, first):
        api.create_tag(REPO, tag="v1.0.0", revision=first, tag_message="one")
        api.create_commit(REPO, additions(a=b"1"), commit_message="x")
        assert [(tag.name, tag.target_commit) for tag in api.list_repo_refs(REPO).tags] == [("v1.0.0", first)]
        assert api.model_info(REPO, revision="v1.0.0").sha == first
        api.delete_tag(REPO, tag="v1.0.0")
        assert api.list_repo_refs(REPO).tags == []
        with pytest.raises(RevisionNotFoundError):
            api.model_info(REPO, revision="v1.0.0")

    def test_a_tag_that_exists_is_a_conflict_and_stays(self, api, first):
        api.create_tag(REPO, tag="v1.0.0", revision=first)
        api.create_commit(REPO, additions(a=b"1"), commit_message="x")
        assert status_of(api.create_tag, REPO, tag="v1.0.0") == 409
        api.create_tag(REPO, tag="v1.0.0", exist_ok=True)
        assert api.list_repo_refs(REPO).tags[0].target_commit == first

    def test_branches_move_on_their_own(self, api, first):
        api.create_branch(REPO, branch="next", revision=first)
        api.create_branch(REPO, branch="next", exist_ok=True)
        assert status_of(api.create_branch, REPO, branch="next") == 409
        second = api.create_commit(REPO, additions(a=b"1"), commit_message="x", revision="next").oid
        refs = api.list_repo_refs(REPO, include_pull_requests=True)
        assert {branch.name: branch.target_commit for branch in refs.branches} == {"main": first, "next": second}
        assert refs.pull_requests == []
        api.delete_branch(REPO, branch="next")
        assert [branch.name for branch in api.list_repo_refs(REPO).branches] == ["main"]

    def test_revisions_with_slashes_are_understood(self, api, first):
        api.create_branch(REPO, branch="release/one", revision=first)
        assert api.model_info(REPO, revision="release/one").sha == first
        assert api.model_info(REPO, revision="refs/heads/release/one").sha == first


class TestTree:
    def test_the_tree_comes_in_pages_with_ids(self, hub, api, first):
        tree = {entry.path: entry for entry in api.list_repo_tree(REPO, recursive=True)}
        assert sorted(tree) == [".gitattributes", "README.md", "manifest.json", "weights", "weights/probe.safetensors"]
        assert len([line for line in hub.requests if "/tree/" in line]) == 2
        assert tree["manifest.json"].blob_id == hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()
        weights = tree["weights/probe.safetensors"]
        assert (weights.size, weights.lfs.size, weights.lfs.sha256) == (
            len(WEIGHTS),
            len(WEIGHTS),
            hashlib.sha256(WEIGHTS).hexdigest(),
        )

    def test_a_folder_shows_what_is_in_it(self, api, first):
        top = [entry.path for entry in api.list_repo_tree(REPO)]
        assert top == [".gitattributes", "README.md", "manifest.json", "weights"]
        assert [entry.path for entry in api.list_repo_tree(REPO, "weights")] == ["weights/probe.safetensors"]
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(REPO, "absent"))

    def test_expanded_entries_name_their_last_commit(self, api, first):
        api.create_commit(REPO, additions(**{"manifest.json": b"[]"}), commit_message="second")
        last = {entry.path: entry.last_commit.title for entry in api.list_repo_tree(REPO, recursive=True, expand=True)}
        assert last == {
            ".gitattributes": "initial commit",
            "README.md": "Publish 1.0.0",
            "manifest.json": "second",
            "weights": "Publish 1.0.0",
            "weights/probe.safetensors": "Publish 1.0.0",
        }

    def test_paths_info_leaves_out_what_is_missing(self, api, first):
        found = api.get_paths_info(REPO, ["manifest.json", "weights", "absent"], expand=True, revision=first)
        assert [(entry.path, entry.last_commit.title) for entry in found] == [
            ("manifest.json", "Publish 1.0.0"),
            ("weights", "Publish 1.0.0"),
        ]
        assert api.get_paths_info(REPO, "manifest.json")[0].last_commit is None
