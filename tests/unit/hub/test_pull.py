"""Pulling: sizes before bytes, every byte hashed, nothing unverified in the store, nothing fetched twice."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from subprocess import run
from sys import executable

import pytest
from huggingface_hub import HfApi
from tests.loopback_hubs import REGULAR_UPLOAD, client_online
from tests.publishable_artifacts import ORGANISATION, OTHER, PUBLISHER, REPO, publishable_folder

from steerguard.artifacts.paths import MAX_WEIGHTS_BYTES
from steerguard.artifacts.verify import verify_artifact
from steerguard.errors import (
    ArtifactError,
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    RegistryAccessError,
    RegistryUnavailableError,
)
from steerguard.hub import pull as pulling
from steerguard.hub.bounded import BoundedFile
from steerguard.hub.client import HubClient, RemoteFile
from steerguard.hub.commit_files import artifact_tree
from steerguard.hub.publish import publish
from steerguard.hub.pull import PullTarget, pull
from steerguard.registry.folder import read_folder
from steerguard.registry.pulled import PulledArtifacts
from steerguard.testing import LoopbackHub

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

WEIGHTS = "weights/vectors.safetensors"


def downloads(hub, path=""):
    return [line for line in hub.requests if line.startswith("GET") and "/resolve/" in line and path in line]


def planted(hub, entry, files, *, delete=()):
    """A target at a new commit of the same repository with other files, as somebody with power over the Hub makes it."""
    hub.repository(REPO).plant(files, delete=delete)
    return PullTarget(reference=entry.reference, digest=entry.digest, repo=REPO, commit=hub.repository(REPO).head)


def nothing_stored(pulled):
    return not pulled.entries()


class TestPull:
    def test_a_pulled_artifact_verifies_and_needs_no_network_again(self, hub, client, pulled, published, folder):
        pull(client, published.entry, pulled)
        pin = pulled.pin(published.entry)
        assert dict(pulled.read(pin)) == dict(read_folder(folder))
        verify_artifact(pulled.read(pin), pin.digest)
        hub.forget_requests()
        pull(client, published.entry, pulled)
        assert hub.requests == []

    def test_the_files_are_asked_for_at_the_full_commit(self, hub, client, pulled, published):
        hub.forget_requests()
        pull(client, published.entry, pulled)
        assert downloads(hub)
        assert all(f"/resolve/{published.entry.commit}/" in line for line in downloads(hub))

    def test_a_moved_tag_changes_nothing(self, hub, client, pulled, published):
        other = planted(hub, published.entry, {WEIGHTS: b"other"})
        hub.move_tag(REPO, "v1.0.0", other.commit)
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)

    def test_large_files_come_from_another_origin_without_the_token(self, tmp_path, pulled):
        with LoopbackHub(redirect=True) as hub, client_online(hub, tmp_path / "home"):
            client = HubClient(hub.endpoint, hub.token)
            done = publish(
                client,
                publishable_folder(tmp_path / "one"),
                organisation=ORGANISATION,
                pulled=PulledArtifacts(tmp_path / "desk"),
                signer=PUBLISHER,
                new_registry=True,
            )
            hub.forget_requests()
            pull(client, done.entry, pulled)
            moved = [one for one in hub.exchanges if "/loopback/objects/" in one.line]
            assert moved
            assert all(one.user is None for one in moved)
        assert pulled.sound(done.entry.digest)


class TestRefusals:
    @pytest.mark.parametrize("path", ["manifest.json", "README.md", WEIGHTS, "calibration.json"])
    def test_a_tampered_blob_never_gets_into_the_store(self, hub, client, pulled, published, path):
        hub.fault("tamper", f"GET */resolve/*/{path}")
        with pytest.raises(ArtifactIntegrityError):
            pull(client, published.entry, pulled)
        assert nothing_stored(pulled)
        hub.lift_faults()
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)

    def test_a_tampered_attestation_is_noticed_by_the_tree(self, hub, client, pulled, published):
        hub.fault("tamper", "GET */resolve/*/attestations/*")
        with pytest.raises(ArtifactIntegrityError, match="another file than it lists"):
            pull(client, published.entry, pulled)
        assert nothing_stored(pulled)

    def test_a_file_that_the_manifest_does_not_list_is_refused_before_download(self, hub, client, pulled, published):
        target = planted(hub, published.entry, {"weights/more.safetensors": b"x" * 100})
        hub.forget_requests()
        with pytest.raises(ArtifactIntegrityError, match="does not hold the files"):
            pull(client, target, pulled)
        assert downloads(hub, "weights/") == []
        assert nothing_stored(pulled)

    @pytest.mark.parametrize(
        "path", ["model.py", "weights/vectors.pt", "weights/deep/x.safetensors", "pytorch_model.bin"]
    )
    def test_a_name_that_no_artifact_has_is_refused_before_download(self, hub, client, pulled, published, path):
        target = planted(hub, published.entry, {path: b"import os"})
        hub.forget_requests()
        with pytest.raises(ArtifactFormatError):
            pull(client, target, pulled)
        assert downloads(hub) == []

    def test_a_missing_file_is_refused_before_download(self, hub, client, pulled, published):
        target = planted(hub, published.entry, {}, delete=[WEIGHTS])
        hub.forget_requests()
        with pytest.raises(ArtifactIntegrityError, match="does not hold the files"):
            pull(client, target, pulled)
        assert downloads(hub, "weights/") == []

    def test_an_oversize_file_is_refused_before_download(self, hub, client, pulled, published):
        target = planted(hub, published.entry, {WEIGHTS: b"x" * 1_000_000})
        hub.forget_requests()
        with pytest.raises(ArtifactIntegrityError, match="another file than the manifest pins"):
            pull(client, target, pulled)
        assert downloads(hub, "weights/") == []

    def test_too_much_in_all_is_refused_before_download(self):
        class Listing:
            def tree(self, repo, commit, *, max_files):
                paths = ["manifest.json", *(f"weights/{name}.safetensors" for name in "abc")]
                sizes = [100, *([MAX_WEIGHTS_BYTES] * 3)]
                return {
                    path: RemoteFile(path=path, size=size, git_sha1="0" * 40, sha256=None)
                    for path, size in zip(paths, sizes, strict=True)
                }

        with pytest.raises(ArtifactFormatError, match="too large as a whole"):
            artifact_tree(Listing(), REPO, "a" * 40)

    def test_an_oversize_manifest_is_refused_before_download(self, hub, client, pulled, published):
        target = planted(hub, published.entry, {"manifest.json": b" " * (1024 * 1024 + 1)})
        hub.forget_requests()
        with pytest.raises(ArtifactFormatError, match="too large"):
            pull(client, target, pulled)
        assert downloads(hub) == []

    def test_another_manifest_of_the_same_name_is_refused(self, hub, client, pulled, published, tmp_path):
        other = publishable_folder(tmp_path / "other", license="mit")
        target = planted(hub, published.entry, {path: bytes(text) for path, text in read_folder(other).items()})
        with pytest.raises(ArtifactIntegrityError, match="not the one that was pinned"):
            pull(client, target, pulled)
        assert nothing_stored(pulled)

    def test_a_commit_that_does_not_exist_is_named(self, client, pulled, published):
        gone = PullTarget(
            reference=published.entry.reference, digest=published.entry.digest, repo=REPO, commit="0" * 40
        )
        with pytest.raises(ArtifactNotFoundError, match="0000"):
            pull(client, gone, pulled)

    def test_a_namespace_registered_anew_gives_nothing(self, hub, client, pulled, published, tmp_path, publish_it):
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.delete_repo(REPO)
        api.create_repo(REPO)
        with pytest.raises(ArtifactNotFoundError):
            pull(client, published.entry, pulled)
        assert nothing_stored(pulled)

    def test_a_truncated_body_is_refused_and_nothing_is_stored(self, hub, client, pulled, published):
        hub.fault("truncate", f"* */resolve/*/{WEIGHTS}")
        with pytest.raises((ArtifactIntegrityError, RegistryUnavailableError)):
            pull(client, published.entry, pulled)
        assert nothing_stored(pulled)
        hub.lift_faults()
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)


class TestResume:
    def test_what_was_downloaded_before_an_interruption_is_not_fetched_again(
        self, hub, client, pulled, published, monkeypatch
    ):
        hub.fault("forbidden", "GET */resolve/*/recipe.yaml", times=1)
        hub.forget_requests()
        with monkeypatch.context() as patch:
            # One after the other, the smallest last.
            patch.setattr(pulling, "PARALLEL_FILES", 1)
            with pytest.raises(RegistryAccessError):
                pull(client, published.entry, pulled)
        first = downloads(hub, "weights/")
        assert len(first) == 2
        assert nothing_stored(pulled)
        pull(client, published.entry, pulled)
        assert downloads(hub, "weights/") == first
        assert pulled.sound(published.entry.digest)

    def test_half_a_file_is_continued_with_a_range(self, hub, client, pulled, published, folder):
        half_of(pulled, published, folder)
        hub.forget_requests()
        pull(client, published.entry, pulled)
        ranges = [one.range for one in hub.exchanges if WEIGHTS in one.line and one.method == "GET"]
        assert ranges == ["bytes=100-"]
        assert pulled.sound(published.entry.digest)

    def test_a_damaged_half_is_thrown_away_and_fetched_whole(self, hub, client, pulled, published, folder):
        half_of(pulled, published, folder, spoil=True)
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)

    def test_a_dropped_connection_is_continued(self, hub, client, pulled, published):
        hub.fault("drop", f"GET */resolve/*/{WEIGHTS}", times=1, at=200)
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)

    def test_strangers_in_the_staging_folder_are_removed(self, client, pulled, published, tmp_path):
        staged = pulled.partial(published.entry.digest) / "artifact"
        (staged / "weights").mkdir(parents=True)
        (staged / "weights" / "vectors.safetensors").symlink_to(tmp_path / "elsewhere")
        (staged / "evil.py").write_text("import os")
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)
        assert "evil.py" not in pulled.read(pulled.pin(published.entry))


class TestParallel:
    def test_threads_that_ask_for_one_digest_download_it_once(self, hub, client, pulled, published):
        hub.fault("slow", f"GET */resolve/*/{WEIGHTS}", seconds=0.3)
        hub.forget_requests()
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(pull, client, published.entry, pulled) for _ in range(4)]:
                done.result()
        assert len(downloads(hub, WEIGHTS)) == 1

    def test_processes_that_ask_for_one_digest_download_it_once(self, hub, pulled, published, tmp_path):
        program = (
            "import sys\n"
            "from pathlib import Path\n"
            "from steerguard.hub.client import HubClient\n"
            "from steerguard.hub.pull import PullTarget, pull\n"
            "from steerguard.registry.pulled import PulledArtifacts\n"
            "reference, digest, repo, commit, endpoint, token, root = sys.argv[1:]\n"
            "target = PullTarget(reference=reference, digest=digest, repo=repo, commit=commit)\n"
            "pull(HubClient(endpoint, token), target, PulledArtifacts(Path(root)))\n"
        )
        hub.fault("slow", f"GET */resolve/*/{WEIGHTS}", seconds=0.5)
        hub.forget_requests()
        entry = published.entry
        arguments = (entry.reference, entry.digest, entry.repo, entry.commit, hub.endpoint, hub.token)
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        results = []

        def start():
            results.append(
                run([executable, "-c", program, *arguments, str(pulled.root)], env=environment, timeout=60, check=False)
            )

        threads = [threading.Thread(target=start) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [result.returncode for result in results] == [0, 0]
        assert len(downloads(hub, WEIGHTS)) == 1
        assert pulled.sound(entry.digest)


class TestDisk:
    def test_a_full_disk_is_an_error_that_says_what_to_do(self, client, pulled, published, monkeypatch):
        write = BoundedFile.write

        def full(self, content):
            if "vectors" in self._where:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(self, content)

        with monkeypatch.context() as patch:
            patch.setattr(BoundedFile, "write", full)
            with pytest.raises(ArtifactError, match="No space left") as caught:
                pull(client, published.entry, pulled)
        assert "Free space" in str(caught.value)
        assert nothing_stored(pulled)
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)

    def test_what_the_disk_cannot_hold_is_not_begun(self, hub, client, pulled, published, monkeypatch):
        usage = pulling.shutil.disk_usage(pulled.root.parent)
        monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage._replace(free=100))
        hub.forget_requests()
        with pytest.raises(ArtifactError, match="no room"):
            pull(client, published.entry, pulled)
        assert downloads(hub, "weights/") == []

    def test_an_interrupt_stops_the_pull_and_the_next_one_finishes(self, hub, client, pulled, published, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pulling, "as_completed", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pull(client, published.entry, pulled)
        assert nothing_stored(pulled)
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)


class TestRepair:
    def test_a_poisoned_copy_goes_to_quarantine_and_is_replaced(self, client, pulled, published):
        pull(client, published.entry, pulled)
        file = pulled.folder(published.entry.digest) / WEIGHTS
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert not pulled.sound(published.entry.digest)
        pull(client, published.entry, pulled)
        assert pulled.sound(published.entry.digest)
        assert next(path.name for path in (pulled.root / "quarantine").iterdir()).startswith(
            published.entry.digest.removeprefix("sha256:")
        )

    def test_more_attestations_of_a_pulled_artifact_are_fetched_alone(
        self, hub, client, pulled, published, publish_it, folder
    ):
        pull(client, published.entry, pulled)
        again = publish_it(publishable_folder(folder, OTHER))
        hub.forget_requests()
        pull(client, again.entry, pulled)
        assert {line.rsplit("/", 1)[1].split(".")[0] for line in downloads(hub)} == {"release"}
        assert len(pulled.attestations(again.entry)) == 2
        assert pulled.sound(again.entry.digest)


def half_of(pulled, published, folder, *, spoil=False):
    """Leave the first hundred bytes of the weights behind, as an interrupted download does."""
    content = (folder / WEIGHTS).read_bytes()
    manifest = published.manifest.file_entries[WEIGHTS]
    parts = pulled.partial(published.entry.digest) / "parts"
    parts.mkdir()
    (parts / manifest.sha256).write_bytes(b"\xff" * 100 if spoil else content[:100])
