"""Faults do what they are asked to, where, and as often; the server under them keeps to HTTP and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest

from steerguard.testing import LoopbackHub
from steerguard.testing.loopback_hub.card_check import check_card

CONTENT = bytes(range(200))
RESULT = "model-index: [{name: a, results: [{task: {type: t}, dataset: {type: d, name: n}, metrics: %s}]}]"
FILE = "/acme/probe/resolve/main/weights/a.safetensors"


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        hub._repositories.create("model", "acme/probe", author="ada")
        hub.repository("acme/probe").plant({"weights/a.safetensors": CONTENT, "manifest.json": b"{}"})
        yield hub


def connect(hub):
    return http.client.HTTPConnection("127.0.0.1", int(hub.endpoint.rpartition(":")[2]), timeout=10)


def ask(hub, path, method="GET", body=None, **headers):
    """One request on a connection of its own: (status, headers, body)."""
    connection = connect(hub)
    try:
        connection.request(method, path, body=body, headers=headers)
        reply = connection.getresponse()
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    finally:
        connection.close()


def signed_in(hub):
    return {"Authorization": f"Bearer {hub.token}"}


class TestKinds:
    def test_a_changed_file_keeps_size_and_entity_tag(self, hub):
        honest = ask(hub, FILE)
        fault = hub.fault("tamper", at=7)
        changed = ask(hub, FILE)
        assert changed[2] == CONTENT[:7] + bytes([CONTENT[7] ^ 1]) + CONTENT[8:]
        for name in ("etag", "x-linked-etag", "x-linked-size", "content-length", "x-repo-commit"):
            assert changed[1][name] == honest[1][name]
        assert ask(hub, FILE, Range="bytes=5-9")[2] == changed[2][5:10]
        assert fault.seen == 2
        fault.lift()
        assert ask(hub, FILE)[2] == CONTENT

    def test_a_shorter_file_says_so_in_every_length(self, hub):
        hub.fault("truncate", times=1, at=50)
        head, got, after = ask(hub, FILE, "HEAD"), ask(hub, FILE), ask(hub, FILE)
        for status, headers, _ in (head, got):
            assert (status, headers["content-length"], headers["x-linked-size"]) == (200, "50", "50")
        assert (got[2], after[2]) == (CONTENT[:50], CONTENT)

    def test_a_missing_file_is_still_in_the_tree(self, hub):
        hub.fault("missing", "*/a.safetensors")
        status, headers, _ = ask(hub, FILE)
        assert (status, headers["x-error-code"]) == (404, "EntryNotFound")
        assert headers["x-repo-commit"] == hub.repository("acme/probe").head
        tree = json.loads(ask(hub, "/api/models/acme/probe/tree/main?recursive=true")[2])
        assert "weights/a.safetensors" in [entry["path"] for entry in tree]

    @pytest.mark.parametrize(
        ("kind", "status", "code"),
        [
            ("unauthorized", 401, None),
            ("forbidden", 403, None),
            ("gated", 403, "GatedRepo"),
            ("unavailable", 503, None),
        ],
    )
    def test_refusals_come_with_their_status_as_often_as_asked(self, hub, kind, status, code):
        fault = hub.fault(kind, times=2, retry_after=3)
        answers = [ask(hub, FILE) for _ in range(3)]
        assert [answer[0] for answer in answers] == [status, status, 200]
        assert answers[0][1].get("x-error-code") == code
        assert answers[0][1].get("retry-after") == ("3" if kind == "unavailable" else None)
        assert fault.seen == 2

    @pytest.mark.parametrize(("kind", "status"), [("conflict", 409), ("stale_parent", 412)])
    def test_conflicts_strike_commits_only(self, hub, kind, status):
        hub.fault(kind)
        assert ask(hub, FILE)[0] == 200
        assert ask(hub, "/api/models/acme/probe/commit/main", "POST", b"", **signed_in(hub))[0] == status

    def test_an_index_can_be_shown_as_it_was(self, hub):
        probe = hub.repository("acme/probe")
        old, new = probe.head, probe.plant({"manifest.json": b"[1]"})
        newest = probe.plant({"manifest.json": b"[2]"})
        path = "/acme/probe/resolve/{}/manifest.json"
        fault = hub.fault("stale", "*acme/probe*")
        assert ask(hub, path.format("main"))[2] == b"[1]"
        assert json.loads(ask(hub, "/api/models/acme/probe")[2])["sha"] == new
        assert json.loads(ask(hub, "/api/models/acme/probe/refs")[2])["branches"][0]["targetCommit"] == new
        assert ask(hub, path.format(newest))[2] == b"[2]"
        fault.lift()
        hub.fault("stale", commit=old)
        assert ask(hub, path.format("main"))[2] == b"{}"
        hub.lift_faults()
        assert ask(hub, path.format("main"))[2] == b"[2]"

    def test_a_moved_tag_names_another_commit(self, hub):
        probe = hub.repository("acme/probe")
        old = probe.head
        hub.move_tag("acme/probe", "v1", old)
        new = probe.plant({"manifest.json": b"[]"})
        hub.move_tag("acme/probe", "v1", new)
        assert probe.tags == {"v1": new}
        assert ask(hub, "/acme/probe/resolve/v1/manifest.json")[2] == b"[]"

    def test_a_dropped_connection_ends_within_the_body(self, hub):
        fault = hub.fault("drop", times=1, at=30)
        with pytest.raises(http.client.IncompleteRead) as caught:
            ask(hub, FILE)
        assert caught.value.partial == CONTENT[:30]
        assert (ask(hub, FILE)[2], fault.seen) == (CONTENT, 1)

    def test_a_lost_answer_leaves_the_commit_done(self, hub):
        before = hub.repository("acme/probe").head
        body = b"\n".join(
            [
                b'{"key":"header","value":{"summary":"x"}}',
                b'{"key":"file","value":{"path":"a","content":"MQ==","encoding":"base64"}}',
            ]
        )
        hub.fault("lost", times=1)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            ask(hub, "/api/models/acme/probe/commit/main", "POST", body, **signed_in(hub))
        assert hub.repository("acme/probe").head != before
        assert hub.repository("acme/probe").files()["a"] == b"1"
        assert hub.exchanges[-1].status is None

    def test_a_slow_body_takes_longer_and_arrives_whole(self, hub):
        hub.fault("slow", seconds=0.3)
        start = time.monotonic()
        assert ask(hub, FILE)[2] == CONTENT
        assert 0.3 <= time.monotonic() - start < 5

    def test_counts_hold_when_many_ask_at_once(self, hub):
        fault = hub.fault("forbidden", times=25)
        statuses = []
        threads = [
            threading.Thread(target=lambda: statuses.extend(ask(hub, FILE)[0] for _ in range(10))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (statuses.count(403), statuses.count(200), fault.seen) == (25, 55, 25)


class TestServer:
    def test_one_connection_carries_many_answers(self, hub):
        connection = connect(hub)
        for path in (FILE, "/api/models/acme/absent", "/absent", FILE, "/api/whoami-v2", FILE):
            for method in ("GET", "HEAD"):
                connection.request(method, path)
                reply = connection.getresponse()
                body = reply.read()
                assert not reply.will_close
                assert len(body) == (int(reply.headers["Content-Length"]) if method == "GET" else 0)
        connection.close()

    def test_bodies_in_chunks_are_understood(self, hub):
        card = json.dumps({"content": "---\nlicense: mit\n---\n", "repoType": "model"}).encode()
        status, _, body = ask(hub, "/api/validate-yaml", "POST", iter([card[:10], card[10:]]))
        assert (status, json.loads(body)) == (200, {"errors": [], "warnings": []})

    @pytest.mark.parametrize(
        ("asked", "status", "part"),
        [
            ("bytes=0-9", 206, CONTENT[:10]),
            ("bytes=190-", 206, CONTENT[190:]),
            ("bytes=-10", 206, CONTENT[190:]),
            ("bytes=190-900", 206, CONTENT[190:]),
            ("bytes=0-1,5-6", 200, CONTENT),
            ("bytes=-", 200, CONTENT),
        ],
    )
    def test_ranges_are_answered_exactly(self, hub, asked, status, part):
        reply = ask(hub, FILE, Range=asked)
        assert (reply[0], reply[2]) == (status, part)
        if status == 206:
            start = CONTENT.index(part)
            assert reply[1]["content-range"] == f"bytes {start}-{start + len(part) - 1}/200"

    def test_of_many_commits_on_one_parent_one_is_made(self, hub):
        head = hub.repository("acme/probe").head
        content = {"key": "file", "value": {"path": "a", "content": "MQ==", "encoding": "base64"}}
        statuses = []

        def commit(number):
            header = {"key": "header", "value": {"summary": f"by {number}", "parentCommit": head}}
            body = "\n".join(map(json.dumps, [header, content])).encode()
            statuses.append(ask(hub, "/api/models/acme/probe/commit/main", "POST", body, **signed_in(hub))[0])

        threads = [threading.Thread(target=commit, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] + [412] * 11
        assert [commit.parent for commit in hub.repository("acme/probe").commits].count(head) == 1

    def test_ranges_beyond_the_end_are_refused_with_the_size(self, hub):
        status, headers, _ = ask(hub, FILE, Range="bytes=200-")
        assert (status, headers["content-range"]) == (416, "bytes */200")

    def test_requests_that_make_no_sense_are_refused_and_the_hub_goes_on(self, hub):
        everyone = signed_in(hub)
        api = "/api/models/acme/probe"
        for path, body in (
            (f"{api}/preupload/main", b"[]"),
            (f"{api}/preupload/main", b'{"files":[7]}'),
            (f"{api}/preupload/main", b'{"files":[{"path":"a","size":"x"}]}'),
            (f"{api}/commit/main", b"\xff"),
            (f"{api}/tag/main", b'{"tag":7}'),
            ("/acme/probe.git/info/lfs/objects/batch", b'{"operation":"upload","objects":[{"oid":"../x","size":1}]}'),
            ("/acme/probe.git/info/lfs/verify", b'{"oid":"../../x","size":1}'),
            ("/api/repos/create", b'{"name":"a/b"}'),
            ("/api/repos/create", b'{"name":"x","type":"space"}'),
        ):
            assert ask(hub, path, "POST", body, **everyone)[0] in {400, 404}, path
        assert ask(hub, api, "PUT", b"", **everyone)[0] == 405
        assert ask(hub, "/api/models/acme/probe/paths-info/main", "POST", b"\xff\xfe")[0] == 200
        assert ask(hub, FILE)[0] == 200

    def test_uploads_need_the_address_that_the_hub_gave(self, hub):
        path = f"/loopback/uploads/{'ab' * 32}/3"
        assert ask(hub, path, "PUT", b"abc")[0] == 403
        assert ask(hub, f"{path}?ticket={'0' * 64}", "PUT", b"abc")[0] == 403
        objects = json.dumps({"operation": "upload", "objects": [{"oid": "ab" * 32, "size": 3}]}).encode()
        told = json.loads(ask(hub, "/acme/probe.git/info/lfs/objects/batch", "POST", objects, **signed_in(hub))[2])
        address = told["objects"][0]["actions"]["upload"]["href"].removeprefix(hub.endpoint)
        assert ask(hub, address, "PUT", b"abc")[0] == 400

    def test_a_full_disk_is_an_answer_and_changes_nothing(self, hub, monkeypatch):
        def full(content):
            raise OSError(28, "No space left on device")

        head = hub.repository("acme/probe").head
        monkeypatch.setattr(hub._repositories.blobs, "put", full)
        lines = [
            {"key": "header", "value": {"summary": "x"}},
            {"key": "file", "value": {"path": "a", "content": "MQ==", "encoding": "base64"}},
        ]
        body = "\n".join(map(json.dumps, lines)).encode()
        assert ask(hub, "/api/models/acme/probe/commit/main", "POST", body, **signed_in(hub))[0] == 507
        assert hub.repository("acme/probe").head == head

    def test_an_error_of_the_hub_itself_is_seen(self, hub, monkeypatch):
        seen = threading.Event()
        kinds = []

        def notice(found):
            kinds.append(found.exc_type)
            seen.set()

        def broken(*place):
            return place[2]

        with monkeypatch.context() as patch:
            patch.setattr(threading, "excepthook", notice)
            patch.setattr(hub._repositories, "find", broken)
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
                ask(hub, FILE)
            assert seen.wait(10)
        assert kinds == [IndexError]
        assert ask(hub, FILE)[0] == 200

    def test_a_client_that_goes_away_is_no_error(self, hub):
        connection = connect(hub)
        connection.putrequest("POST", "/api/validate-yaml")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"{")
        connection.close()
        assert ask(hub, FILE)[0] == 200

    def test_requests_are_recorded_before_they_are_answered_and_without_tokens(self, hub):
        hub.forget_requests()
        ask(hub, FILE + "?download=true", "HEAD", **signed_in(hub))
        (seen,) = hub.exchanges
        assert hub.requests == [f"HEAD {FILE}"]
        assert (seen.query, seen.user, seen.status, seen.range) == ("download=true", "writer", 200, None)
        assert hub.token not in repr(seen)

    def test_an_outage_ends_and_the_address_stays(self, hub):
        endpoint = hub.endpoint
        with LoopbackHub() as other:
            other._repositories.create("model", "acme/other", author="ada")
            address = other.endpoint
        with pytest.raises(ConnectionRefusedError):
            ask(other, "/api/models/acme/other")
        with other:
            assert other.endpoint == address != endpoint
            assert ask(other, "/api/models/acme/other")[0] == 200

    def test_closing_ends_idle_and_busy_connections_and_all_threads(self):
        with LoopbackHub() as hub:
            hub._repositories.create("model", "acme/probe", author="ada")
            hub.repository("acme/probe").plant({"weights/a.safetensors": CONTENT})
            hub.fault("slow", seconds=60)
            idle, busy = connect(hub), connect(hub)
            idle.request("GET", "/api/models")
            idle.getresponse().read()
            busy.request("GET", FILE)
            busy.getresponse()
            start = time.monotonic()
        assert time.monotonic() - start < 5
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("loopback-hub")]
        idle.close()
        busy.close()


class TestCards:
    @pytest.mark.parametrize(
        ("front", "wrong"),
        [
            ("license: mit\ntags: [a, b]\nbase_model: x/y\nbase_model_relation: adapter", None),
            ("license: [mit, apache-2.0]\nlanguage: en\npipeline_tag: text-classification", None),
            ("license: 7", "license"),
            ("license: two words", "license"),
            ("tags: a", "tags"),
            ("tags: [1]", "tags"),
            ("library_name: [a]", "library_name"),
            ("base_model_relation: cousin", "base_model_relation"),
            ("- a", "mapping"),
            ("a: [", "bad YAML"),
            ("model-index: {}", "model-index"),
            ("model-index: [{results: []}]", "name"),
            ("model-index: [{name: a}]", "results"),
            ("model-index: [{name: a, results: [{task: {type: t}}]}]", "dataset"),
            (RESULT % "[]", "metrics"),
            (RESULT % "[{type: m}]", "value"),
            (RESULT % "[{type: m, value: 0}]", None),
        ],
    )
    def test_front_matter_is_checked(self, front, wrong):
        errors, warnings = check_card(f"---\n{front}\n---\n# Title")
        assert warnings == []
        if wrong is None:
            assert errors == []
        else:
            assert any(wrong in error for error in errors)

    @pytest.mark.parametrize("card", ["", "# Title", "---\n---\n", "--- no ---"])
    def test_a_card_without_metadata_earns_a_warning(self, card):
        assert check_card(card) == ([], ["empty or missing yaml metadata in repo card"])
