"""The client: every failure of the Hub becomes one of our errors with a next step, and no message has the token."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi, constants
from tests.loopback_hubs import REGULAR_UPLOAD, client_online
from tests.publishable_artifacts import REPO

from steerguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    PublishConflictError,
    PublishRefusedError,
    RegistryAccessError,
    RegistryUnavailableError,
)
from steerguard.hub.client import DEFAULT_ENDPOINT, HubClient
from steerguard.testing import LoopbackHub

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


@pytest.fixture
def head(hub, client):
    """The newest commit of a repository with three files."""
    client.create_repository(REPO)
    first = client.head(REPO)
    additions = {"a.json": b"{}", "folder/b.json": b"[1]", "weights/c.safetensors": b"c" * 100}
    return client.commit(REPO, additions=additions, parent=first, message="First")


class TestReading:
    def test_the_tree_has_every_file_with_its_size(self, client, head):
        tree = client.tree(REPO, head, max_files=10)
        assert {path: file.size for path, file in tree.items() if path != ".gitattributes"} == {
            "a.json": 2,
            "folder/b.json": 3,
            "weights/c.safetensors": 100,
        }
        assert tree["weights/c.safetensors"].sha256 is not None
        assert tree["a.json"].sha256 is None

    def test_a_tree_over_several_pages_is_complete(self, tmp_path):
        with LoopbackHub(page_size=2) as hub, client_online(hub, tmp_path / "home"):
            client = HubClient(hub.endpoint, hub.token)
            client.create_repository(REPO)
            files = {f"f{n}.json": b"{}" for n in range(7)}
            head = client.commit(REPO, additions=files, parent=client.head(REPO), message="Many")
            assert set(files) < set(client.tree(REPO, head, max_files=10))

    def test_a_tree_with_too_many_files_is_refused(self, client, head):
        with pytest.raises(ArtifactFormatError, match="too many files"):
            client.tree(REPO, head, max_files=2)

    def test_a_file_is_read_up_to_its_limit_only(self, client, head):
        assert client.read(REPO, head, "folder/b.json", max_bytes=3) == b"[1]"
        with pytest.raises(ArtifactIntegrityError, match="more bytes"):
            client.read(REPO, head, "folder/b.json", max_bytes=2)

    def test_a_download_writes_no_more_than_its_size(self, client, head, tmp_path):
        with pytest.raises(ArtifactIntegrityError, match="more bytes"):
            client.download(REPO, head, "weights/c.safetensors", tmp_path / "c", size=50)
        assert (tmp_path / "c").stat().st_size <= 50

    def test_a_download_does_not_follow_a_link(self, client, head, tmp_path):
        (tmp_path / "target").write_bytes(b"mine")
        (tmp_path / "link").symlink_to(tmp_path / "target")
        with pytest.raises(OSError, match="symbolic links"):
            client.download(REPO, head, "weights/c.safetensors", tmp_path / "link", size=100)
        assert (tmp_path / "target").read_bytes() == b"mine"

    def test_tags_name_full_commits(self, client, head):
        client.tag(REPO, "v1", head)
        assert client.tags(REPO) == {"v1": head}

    def test_a_head_that_does_not_exist_is_none(self, client):
        assert client.head_or_none("acme/nothing") is None

    def test_an_empty_file_is_read(self, hub, client):
        client.create_repository(REPO)
        hub.repository(REPO).plant({"empty.json": b""})
        assert client.read(REPO, client.head(REPO), "empty.json", max_bytes=10) == b""


class TestFailures:
    @pytest.mark.parametrize(
        ("kind", "expected", "next_step"),
        [
            ("unauthorized", RegistryAccessError, "hf auth login"),
            ("forbidden", RegistryAccessError, "hf auth login"),
            ("gated", RegistryAccessError, "Accept the conditions"),
            ("missing", ArtifactNotFoundError, "Ask the registry's owner"),
        ],
    )
    def test_a_refusal_names_the_next_step(self, hub, client, head, kind, expected, next_step):
        hub.fault(kind, "GET */resolve/*")
        with pytest.raises(expected, match=next_step) as caught:
            client.read(REPO, head, "a.json", max_bytes=10)
        assert REPO in str(caught.value.where)
        assert hub.token not in str(caught.value)

    @pytest.mark.parametrize("call", ["head", "tags", "tree", "commit", "tag", "create_repository"])
    @pytest.mark.parametrize("kind", ["forbidden", "unauthorized"])
    def test_every_call_maps_a_refusal(self, hub, client, head, call, kind):
        hub.fault(kind)
        calls = {
            "head": lambda: client.head(REPO),
            "tags": lambda: client.tags(REPO),
            "tree": lambda: client.tree(REPO, head, max_files=10),
            "commit": lambda: client.commit(REPO, additions={"d.json": b"{}"}, parent=head, message="Second"),
            "tag": lambda: client.tag(REPO, "v1", head),
            "create_repository": lambda: client.create_repository("acme/more"),
        }
        with pytest.raises(RegistryAccessError) as caught:
            calls[call]()
        assert hub.token not in str(caught.value)

    def test_a_private_repository_is_refused_to_strangers_without_a_word_about_its_content(self, hub, client, head):
        hub.repository(REPO).set_access(private=True)
        stranger = HubClient(hub.endpoint, hub.add_user("eve"))
        with pytest.raises((RegistryAccessError, ArtifactNotFoundError), match="hf auth login"):
            stranger.read(REPO, head, "a.json", max_bytes=10)
        assert HubClient(hub.endpoint, hub.token).read(REPO, head, "a.json", max_bytes=10) == b"{}"

    def test_a_gated_repository_asks_to_accept_its_conditions(self, hub, client, head):
        HfApi(endpoint=hub.endpoint, token=hub.token).update_repo_settings(REPO, gated="manual")
        stranger = HubClient(hub.endpoint, hub.add_user("eve"))
        with pytest.raises(RegistryAccessError, match="Accept the conditions"):
            stranger.read(REPO, head, "a.json", max_bytes=10)

    def test_an_outage_ends_as_unavailable(self, hub, client, head, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda _: None)
        hub.fault("unavailable")
        with pytest.raises(RegistryUnavailableError, match="Try again later"):
            client.head(REPO)

    def test_a_short_outage_is_waited_out(self, hub, client, head, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda _: None)
        hub.fault("drop", "GET */resolve/*", times=1, at=0)
        assert client.read(REPO, head, "a.json", max_bytes=10) == b"{}"

    def test_a_server_that_is_gone_is_unavailable(self, tmp_path, monkeypatch):
        monkeypatch.setattr(time, "sleep", lambda _: None)
        with LoopbackHub() as hub:
            endpoint = hub.endpoint
        with client_online(hub, tmp_path / "home"), pytest.raises(RegistryUnavailableError, match="Check the network"):
            HubClient(endpoint, hub.token).head(REPO)

    @pytest.mark.parametrize("endpoint", ["http://127.0.0.1:port", "ftp://127.0.0.1", "nowhere"])
    def test_an_endpoint_that_is_no_address_is_named(self, hub, endpoint):
        with pytest.raises(RegistryUnavailableError, match="HF_ENDPOINT"):
            HubClient(endpoint, hub.token).head(REPO)

    def test_a_password_in_the_address_stays_out_of_messages(self, hub, head):
        client = HubClient(hub.endpoint.replace("://", "://mirror:hunter2@"), hub.token)
        with pytest.raises(RegistryAccessError) as caught:
            client.read(REPO, head, "a.json", max_bytes=10)
        assert client.endpoint == hub.endpoint
        assert "hunter2" not in f"{client!r} {caught.value}"

    def test_a_server_that_repeats_a_file_for_ever_is_stopped(self, tmp_path):
        entry = {"type": "file", "path": "a.json", "size": 2, "oid": "0" * 40}

        class Repeating(BaseHTTPRequestHandler):
            def do_GET(self):
                answer = json.dumps([entry]).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Link", f'<http://127.0.0.1:{server.server_port}{self.path}>; rel="next"')
                self.end_headers()
                self.wfile.write(answer)
                asked.append(self.path)
                if len(asked) > 100:
                    server.shutdown()

            def log_message(self, *arguments):
                pass

        asked = []
        with (
            LoopbackHub() as hub,
            client_online(hub, tmp_path / "home"),
            ThreadingHTTPServer(("127.0.0.1", 0), Repeating) as server,
        ):
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            client = HubClient(f"http://127.0.0.1:{server.server_port}", hub.token)
            with pytest.raises(ArtifactFormatError, match="too many files"):
                client.tree(REPO, "a" * 40, max_files=10)
            server.shutdown()
            thread.join()
        assert len(asked) == 11

    @pytest.mark.parametrize("kind", ["conflict", "stale_parent"])
    def test_another_writer_is_a_conflict(self, hub, client, head, kind):
        hub.fault(kind)
        with pytest.raises(PublishConflictError):
            client.commit(REPO, additions={"d.json": b"{}"}, parent=head, message="Second")

    def test_a_stale_parent_is_a_conflict(self, client, head):
        second = client.commit(REPO, additions={"d.json": b"{}"}, parent=head, message="Second")
        assert client.head(REPO) == second
        with pytest.raises(PublishConflictError):
            client.commit(REPO, additions={"e.json": b"{}"}, parent=head, message="Third")
        assert client.head(REPO) == second

    def test_a_tag_is_never_moved(self, client, head):
        client.tag(REPO, "v1", head)
        second = client.commit(REPO, additions={"d.json": b"{}"}, parent=head, message="Second")
        with pytest.raises(PublishConflictError):
            client.tag(REPO, "v1", second)
        assert client.tags(REPO) == {"v1": head}

    def test_a_card_that_the_hub_does_not_accept_is_refused(self, client, head):
        card = b"---\nlicense: [not, a, license\n---\n"
        with pytest.raises(PublishRefusedError):
            client.commit(REPO, additions={"README.md": card}, parent=head, message="Card")

    def test_a_name_that_the_hub_does_not_accept_is_refused(self, client):
        with pytest.raises(PublishRefusedError, match="name"):
            client.create_repository("acme/not--a..name")

    def test_an_address_that_is_no_hub_makes_no_sense(self, client, hub, head, monkeypatch):
        monkeypatch.setattr(HfApi, "repo_info", lambda *_, **__: type("Info", (), {"sha": "not a commit"})())
        with pytest.raises(RegistryUnavailableError, match="makes no sense"):
            client.head(REPO)

    def test_a_server_that_repeats_the_token_does_not_get_it_into_the_message(self, hub, client, head):
        # The hub repeats the path in its message, and here the path is the token.
        hub.fault("forbidden", f"GET */resolve/*{hub.token}*")
        with pytest.raises(RegistryAccessError) as caught:
            client.read(REPO, head, hub.token, max_bytes=10)
        assert "(token)" in str(caught.value.found)
        assert hub.token not in str(caught.value.found)
        assert caught.value.__cause__ is None


class TestOffline:
    def test_an_offline_client_asks_nobody(self, hub):
        client = HubClient(hub.endpoint, hub.token, offline=True)
        with pytest.raises(RegistryUnavailableError, match="switched off"):
            client.head(REPO)
        assert hub.requests == []

    def test_offline_mode_of_the_environment_counts(self, hub, client, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert client.offline
        with pytest.raises(RegistryUnavailableError, match="HF_HUB_OFFLINE"):
            client.head(REPO)
        assert hub.requests == []


class TestSettings:
    def test_the_endpoint_of_the_environment_counts(self, monkeypatch):
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9/")
        assert HubClient().endpoint == "http://127.0.0.1:9"
        monkeypatch.delenv("HF_ENDPOINT")
        assert HubClient().endpoint == DEFAULT_ENDPOINT

    def test_the_token_of_the_environment_counts(self, hub, head, monkeypatch):
        hub.repository(REPO).set_access(private=True)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        assert HubClient(hub.endpoint).head(REPO) == head

    def test_the_token_is_not_in_the_representation(self, hub, client):
        assert hub.token not in repr(client)
