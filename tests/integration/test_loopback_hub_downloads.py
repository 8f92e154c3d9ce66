"""The contract of downloads, refusals, search, cards and the file system, by calls of the real client."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import (
    EvalResult,
    HfApi,
    HfFileSystem,
    ModelCard,
    ModelCardData,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, hf_hub_url, http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, enable_progress_bars
from tests.loopback_hubs import CARD, REGULAR_UPLOAD, REPO, WEIGHTS, additions, client_online, publish_first, status_of

from steerguard.testing import LoopbackHub

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)
WEIGHTS_PATH = "weights/probe.safetensors"


@pytest.fixture(params=[False, True], ids=["from the hub", "from another origin"])
def redirect(request):
    return request.param


@pytest.fixture
def hub(tmp_path, redirect):
    disable_progress_bars()
    with LoopbackHub(redirect=redirect) as hub, client_online(hub, tmp_path / "home"):
        yield hub
    enable_progress_bars()


@pytest.fixture
def api(hub):
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def first(api):
    return publish_first(api)


def download(hub, path, folder, **settings):
    return hf_hub_download(REPO, path, local_dir=folder, endpoint=hub.endpoint, **{"token": hub.token, **settings})


class TestDownloads:
    def test_a_snapshot_of_a_commit_is_complete_and_sound(self, hub, api, first, tmp_path):
        api.create_commit(REPO, additions(later=b"1"), commit_message="later")
        hub.forget_requests()
        folder = snapshot_download(
            REPO, revision=first, local_dir=tmp_path / "a", endpoint=hub.endpoint, token=hub.token
        )
        files = {p.relative_to(folder).as_posix() for p in (tmp_path / "a").rglob("*") if p.is_file()}
        assert {name for name in files if not name.startswith(".cache/")} == {
            ".gitattributes",
            "README.md",
            "manifest.json",
            WEIGHTS_PATH,
        }
        assert (tmp_path / "a" / WEIGHTS_PATH).read_bytes() == WEIGHTS
        assert not [line for line in hub.requests if line.startswith("GET /api/models/acme/probe/revision")]
        checked = api.verify_repo_checksums(REPO, revision=first, local_dir=folder)
        assert (checked.checked_count, checked.mismatches, checked.missing_paths, checked.extra_paths) == (
            4,
            [],
            [],
            [],
        )

    def test_a_changed_file_is_found_by_the_checksums_of_the_tree(self, hub, api, first, tmp_path):
        hub.fault("tamper", f"*{WEIGHTS_PATH}")
        folder = snapshot_download(
            REPO, revision=first, local_dir=tmp_path / "a", endpoint=hub.endpoint, token=hub.token
        )
        assert (tmp_path / "a" / WEIGHTS_PATH).stat().st_size == len(WEIGHTS)
        checked = api.verify_repo_checksums(REPO, revision=first, local_dir=folder)
        assert [mismatch["path"] for mismatch in checked.mismatches] == [WEIGHTS_PATH]

    def test_metadata_names_commit_size_and_entity_tag(self, hub, first):
        url = hf_hub_url(REPO, WEIGHTS_PATH, endpoint=hub.endpoint)
        large = get_hf_file_metadata(url, token=hub.token, endpoint=hub.endpoint)
        assert (large.commit_hash, large.size, large.etag) == (first, len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest())
        small = get_hf_file_metadata(hf_hub_url(REPO, "README.md", endpoint=hub.endpoint), token=hub.token)
        assert (small.size, small.location) == (len(CARD), f"{hub.endpoint}/{REPO}/resolve/main/README.md")

    def test_large_files_come_from_another_origin_without_the_token(self, hub, first, redirect, tmp_path):
        hub.forget_requests()
        download(hub, WEIGHTS_PATH, tmp_path)
        got = [exchange for exchange in hub.exchanges if exchange.method == "GET"]
        assert [exchange.path.startswith("/loopback/objects/") for exchange in got] == [redirect]
        assert [exchange.user for exchange in got] == [None if redirect else "writer"]

    def test_a_download_that_breaks_off_goes_on_where_it_stopped(self, hub, first, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
        fault = hub.fault("drop", times=1, at=1000)
        path = download(hub, WEIGHTS_PATH, tmp_path)
        ranges = [(exchange.range, exchange.status) for exchange in hub.exchanges if exchange.method == "GET"]
        assert ranges == [(None, 200), ("bytes=1000-", 206)]
        assert Path(path).read_bytes() == WEIGHTS
        assert fault.seen == 1

    def test_a_partial_file_is_completed(self, hub, first, tmp_path):
        path = tmp_path / "partial"
        path.write_bytes(WEIGHTS[:5000])
        with path.open("ab") as file:
            http_get(
                hf_hub_url(REPO, WEIGHTS_PATH, revision=first, endpoint=hub.endpoint),
                file,
                resume_size=5000,
                expected_size=len(WEIGHTS),
                headers=build_hf_headers(token=hub.token),
            )
        assert path.read_bytes() == WEIGHTS
        assert hub.exchanges[-1].status == 206

    def test_a_download_by_tag_is_cached_under_its_commit(self, hub, api, first, tmp_path):
        api.create_tag(REPO, tag="v1.0.0", revision=first)
        path = hf_hub_download(
            REPO, "manifest.json", revision="v1.0.0", cache_dir=tmp_path, endpoint=hub.endpoint, token=hub.token
        )
        assert f"snapshots/{first}/manifest.json" in path

    def test_a_data_set_is_read_at_its_own_address(self, hub, api, tmp_path):
        api.create_repo("acme/steerguard-index", repo_type="dataset")
        api.upload_file(
            path_or_fileobj=b"[]", path_in_repo="index.dsse.json", repo_id="acme/steerguard-index", repo_type="dataset"
        )
        path = hf_hub_download(
            "acme/steerguard-index", "index.dsse.json", repo_type="dataset", local_dir=tmp_path, endpoint=hub.endpoint
        )
        assert Path(path).read_bytes() == b"[]"
        assert hub.requests[-1] == "GET /datasets/acme/steerguard-index/resolve/main/index.dsse.json"


class TestRefusals:
    def test_what_is_missing_is_told_apart(self, hub, api, first, tmp_path):
        with pytest.raises(EntryNotFoundError):
            download(hub, "absent.json", tmp_path)
        with pytest.raises(RevisionNotFoundError):
            download(hub, "README.md", tmp_path, revision="absent")
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("acme/absent")
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("probe")
        assert (api.file_exists(REPO, "README.md"), api.file_exists(REPO, "absent")) == (True, False)
        assert (api.repo_exists(REPO), api.repo_exists("acme/absent")) == (True, False)
        assert (api.revision_exists(REPO, first), api.revision_exists(REPO, "0" * 40)) == (True, False)

    def test_a_private_repository_is_not_there_for_others(self, hub, api, first, tmp_path):
        api.update_repo_settings(REPO, private=True)
        eve, ada = hub.add_user("eve"), hub.add_user("ada", ["acme"])
        for token in (False, eve):
            with pytest.raises(RepositoryNotFoundError):
                api.model_info(REPO, token=token)
            with pytest.raises(RepositoryNotFoundError):
                download(hub, "README.md", tmp_path, token=token)
        assert api.model_info(REPO, token=ada).private
        assert [list(api.list_models(token=token)) != [] for token in (False, eve, ada)] == [False, False, True]

    def test_a_gated_repository_shows_its_files_to_accepted_users_only(self, hub, api, first, tmp_path):
        api.update_repo_settings(REPO, gated="manual")
        eve = hub.add_user("eve")
        for token in (False, eve):
            assert api.model_info(REPO, token=token).gated == "manual"
            with pytest.raises(GatedRepoError):
                download(hub, "README.md", tmp_path, token=token)
            with pytest.raises(GatedRepoError):
                api.auth_check(REPO, token=token)
        hub.repository(REPO).set_access(readers=["eve"])
        api.auth_check(REPO, token=eve)
        download(hub, "README.md", tmp_path, token=eve)

    def test_only_members_with_a_writing_token_write(self, hub, api, first):
        reader = hub.add_user("ada", ["acme"], write=False)
        for token, status in ((hub.add_user("eve"), 403), (reader, 403), (False, 401)):
            assert status_of(api.create_commit, REPO, additions(a=b"1"), commit_message="x", token=token) == status
            assert status_of(api.create_tag, REPO, tag="v9", token=token) == status
            assert status_of(api.auth_check, REPO, write=True, token=token) == status
        assert hub.repository(REPO).head == first

    @pytest.mark.parametrize(("kind", "status"), [("unauthorized", 401), ("forbidden", 403)])
    def test_refusals_on_demand_reach_the_client_as_they_are(self, hub, api, first, kind, status):
        fault = hub.fault(kind, "GET /api/*", times=1)
        assert status_of(api.model_info, REPO) == status
        assert (api.model_info(REPO).sha, fault.seen) == (first, 1)

    def test_conflicts_on_demand_reach_the_caller_of_a_commit(self, hub, api, first):
        for kind, status in (("conflict", 409), ("stale_parent", 412)):
            hub.fault(kind, times=1)
            assert status_of(api.create_commit, REPO, additions(a=b"1"), commit_message="x") == status
        assert hub.repository(REPO).head == first

    def test_a_hub_that_comes_back_is_tried_again(self, hub, api, first):
        fault = hub.fault("unavailable", "*/tree/*", times=1)
        assert len(list(api.list_repo_tree(REPO))) == 4
        assert fault.seen == 1

    def test_offline_nothing_is_asked(self, hub, first, tmp_path, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        hub.forget_requests()
        with pytest.raises(LocalEntryNotFoundError):
            download(hub, "README.md", tmp_path)
        assert hub.requests == []


class TestSearchAndCards:
    def test_lists_know_author_words_tags_and_pages(self, hub, api, first):
        for name in ("lab/probe-two", "acme/critic", "acme/probe-three"):
            api.create_repo(name)
        api.create_repo("acme/steerguard-index", repo_type="dataset")
        assert {m.id for m in api.list_models(author="acme")} == {REPO, "acme/critic", "acme/probe-three"}
        assert {m.id for m in api.list_models(search="PROBE", limit=2)} <= {REPO, "lab/probe-two", "acme/probe-three"}
        assert [m.id for m in api.list_models(filter=["steerguard", "base_model:acme/base"])] == [REPO]
        assert [d.id for d in api.list_datasets(author="acme")] == ["acme/steerguard-index"]
        found = next(iter(api.list_models(author="acme", filter="license:apache-2.0", full=True, cardData=True)))
        assert (found.sha, found.card_data.license, "manifest.json" in [s.rfilename for s in found.siblings]) == (
            first,
            "apache-2.0",
            True,
        )
        expanded = next(iter(api.list_models(filter="steerguard", expand=["sha", "tags"])))
        assert (expanded.sha, expanded.card_data) == (first, None)

    def test_a_good_card_is_valid_and_a_bad_one_is_named(self, hub, api, first):
        result = EvalResult("text-classification", "own", "Own prompts", "accuracy", 0.9, task_name="Detection")
        data = ModelCardData(model_name="probe", eval_results=[result], license="apache-2.0", tags=["steerguard"])
        ModelCard(f"---\n{data.to_yaml()}\n---\n# Probe").validate()
        with pytest.raises(ValueError, match="license"):
            ModelCard("---\nlicense: 7\n---\n# Probe").validate()
        with pytest.raises(ValueError, match=r"Invalid metadata in README.md(.|\n)*bad YAML"):
            api.upload_file(path_or_fileobj=b"---\na: [\n---\n", path_in_repo="README.md", repo_id=REPO)
        assert hub.repository(REPO).head == first

    def test_a_card_without_metadata_is_accepted_with_a_warning(self, hub, api, first):
        with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
            api.upload_file(path_or_fileobj=b"# Probe", path_in_repo="README.md", repo_id=REPO)
        assert hub.repository(REPO).files()["README.md"] == b"# Probe"


class TestFileSystem:
    def test_files_are_read_listed_written_and_removed(self, hub, first):
        files = HfFileSystem(endpoint=hub.endpoint, token=hub.token, skip_instance_cache=True)
        assert sorted(files.ls(REPO, detail=False)) == [
            f"{REPO}/{name}" for name in (".gitattributes", "README.md", "manifest.json", "weights")
        ]
        with files.open(f"{REPO}/{WEIGHTS_PATH}", "rb", block_size=1000) as file:
            file.seek(70_000)
            assert file.read(10) == WEIGHTS[70_000:70_010]
        assert files.cat_file(f"{REPO}@{first}/README.md") == CARD
        with files.open(f"{REPO}/notes.txt", "wb") as file:
            file.write(b"note")
        assert hub.repository(REPO).files()["notes.txt"] == b"note"
        files.rm(f"{REPO}/notes.txt")
        assert "notes.txt" not in hub.repository(REPO).files()
