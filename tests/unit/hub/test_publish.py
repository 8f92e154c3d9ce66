"""Publishing: one commit, nothing half-visible after a crash, tags that never move, an index that loses no entry."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from huggingface_hub import HfApi
from tests.loopback_hubs import REGULAR_UPLOAD, footing
from tests.publishable_artifacts import ORGANISATION, OTHER, PUBLISHER, REPO, publishable_folder

from steerguard.errors import (
    ArtifactIntegrityError,
    PublishConflictError,
    PublishRefusedError,
    RegistryAccessError,
    RegistryError,
    RegistryUnavailableError,
    RollbackError,
    SignatureError,
)
from steerguard.hub.client import HubClient
from steerguard.hub.publish import plan_publication, publish
from steerguard.hub.read_index import INDEX_REPOSITORY, read_index, read_state
from steerguard.hub.revoke import renew, revoke
from steerguard.registry.folder import read_folder
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS, RevokedArtifact, RevokedKey
from steerguard.registry.signed_index import SIGNED_INDEX, SIGNED_INDEX_TYPE, signed_index_bytes, signed_index_of
from steerguard.signing.dsse import sign

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

INDEX = f"{ORGANISATION}/{INDEX_REPOSITORY}"
KEYS = (PUBLISHER.public,)


def listed(client, pulled):
    """What a reader with this store sees: `reference@commit`, or nothing where there is no index yet."""
    state = read_state(client, ORGANISATION, keys=KEYS, pulled=pulled)
    return () if state.index is None else state.index.artifacts


def commits_of(hub, repo, repo_type="model"):
    return hub.repository(repo, repo_type).commits


class TestPublish:
    def test_a_published_artifact_is_one_commit_with_its_tag_and_entry(self, hub, client, published, folder, pulled):
        repository = hub.repository(REPO)
        # The Hub's own first commit, and ours.
        assert len(repository.commits) == 2
        files = {path: bytes(content) for path, content in read_folder(folder).items()}
        assert {path: text for path, text in repository.files().items() if path != ".gitattributes"} == files
        assert repository.tags == {"v1.0.0": published.entry.commit}
        state = read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        assert state.index.artifacts == (published.entry,)
        assert state.index.sequence == 1
        assert state.revocations.artifacts == ()

    def test_publishing_again_changes_nothing(self, hub, publish_it, folder, published):
        before = len(commits_of(hub, REPO)), len(commits_of(hub, INDEX, "dataset"))
        assert publish_it(folder).entry == published.entry
        assert (len(commits_of(hub, REPO)), len(commits_of(hub, INDEX, "dataset"))) == before

    def test_the_next_version_replaces_and_deletes_in_the_same_commit(self, hub, publish_it, published, tmp_path):
        hub.repository(REPO)
        second = publish_it(publishable_folder(tmp_path / "second", version="1.1.0", license="mit"))
        repository = hub.repository(REPO)
        assert repository.tags == {"v1.0.0": published.entry.commit, "v1.1.0": second.entry.commit}
        assert len(repository.commits) == 3
        assert json.loads(repository.files()["manifest.json"])["version"] == "1.1.0"
        assert second.state.index.artifacts == (published.entry, second.entry)
        assert second.state.index.sequence == 2

    def test_files_of_the_earlier_version_do_not_stay(self, hub, publish_it, published, tmp_path):
        earlier = next(path for path in hub.repository(REPO).files() if path.startswith("attestations/"))
        publish_it(publishable_folder(tmp_path / "second", OTHER, version="1.1.0"), release_keys=[OTHER.public])
        assert earlier not in hub.repository(REPO).files()

    def test_more_attestations_make_a_new_commit_and_the_tag_stays(self, hub, publish_it, published, folder):
        again = publish_it(publishable_folder(folder, OTHER))
        assert again.entry.commit != published.entry.commit
        assert again.entry.digest == published.entry.digest
        assert hub.repository(REPO).tags == {"v1.0.0": published.entry.commit}
        assert again.state.index.artifacts == (again.entry,)

    def test_attestations_of_others_are_kept(self, hub, publish_it, published, tmp_path):
        again = publish_it(publishable_folder(tmp_path / "theirs", OTHER), release_keys=[OTHER.public])
        names = [path for path in hub.repository(REPO).files(again.entry.commit) if path.startswith("attestations/")]
        assert len(names) == 2

    def test_a_private_publication_makes_private_repositories(self, hub, publish_it, folder):
        publish_it(folder, private=True)
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        assert api.model_info(REPO).private
        assert api.dataset_info(INDEX).private

    def test_nothing_private_goes_into_a_repository_that_others_can_read(self, hub, publish_it, folder):
        HfApi(endpoint=hub.endpoint, token=hub.token).create_repo(REPO, private=False)
        before = len(commits_of(hub, REPO))
        with pytest.raises(PublishRefusedError, match="others can read"):
            publish_it(folder, private=True)
        assert len(commits_of(hub, REPO)) == before

    def test_the_plan_says_what_would_change_and_changes_nothing(self, hub, client, desk, publish_it, folder, tmp_path):
        def plan(where):
            known = {"organisation": ORGANISATION, "pulled": desk, "index_keys": KEYS, **footing(hub)}
            return plan_publication(client, where, **known)

        first = plan(folder)
        assert (first.exists, first.listed, first.removed) == (False, False, ())
        assert "manifest.json" in first.added
        assert not any(line.startswith("POST") for line in hub.requests)
        publish_it(folder)
        assert plan(folder).listed
        assert plan(folder).added == plan(folder).replaced == plan(folder).removed == ()
        second = plan(publishable_folder(tmp_path / "second", version="1.1.0"))
        assert "manifest.json" in second.replaced
        assert second.exists


class TestRefusals:
    def test_without_a_release_signature(self, publish_it, folder, hub):
        for file in (folder / "attestations").iterdir():
            file.unlink()
        with pytest.raises(PublishRefusedError, match="no valid release signature"):
            publish_it(folder)
        assert not any(line.startswith("POST") for line in hub.requests)

    def test_with_a_release_signature_by_a_stranger(self, publish_it, tmp_path):
        with pytest.raises(PublishRefusedError, match="no valid release signature"):
            publish_it(publishable_folder(tmp_path / "one", OTHER))

    def test_with_a_damaged_file(self, publish_it, folder, hub):
        (folder / "recipe.yaml").write_text("seed: 8\n")
        with pytest.raises(ArtifactIntegrityError):
            publish_it(folder)
        assert not any(line.startswith("POST") for line in hub.requests)

    def test_another_content_under_a_listed_version(self, publish_it, published, tmp_path, hub, client, pulled):
        with pytest.raises(PublishConflictError, match="published already"):
            publish_it(publishable_folder(tmp_path / "other", license="mit"))
        assert listed(client, pulled) == (published.entry,)

    def test_another_content_under_a_tag_that_no_index_lists(self, hub, client, desk, publish_it, folder, tmp_path):
        hub.fault("forbidden", f"POST /api/datasets/{INDEX}/commit/*")
        with pytest.raises(RegistryAccessError):
            publish_it(folder)
        hub.lift_faults()
        tags = hub.repository(REPO).tags
        with pytest.raises(PublishConflictError, match=r"tag v1\.0\.0 exists"):
            publish_it(publishable_folder(tmp_path / "other", license="mit"))
        assert hub.repository(REPO).tags == tags

    def test_a_repository_that_holds_something_else(self, hub, publish_it, folder):
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo(REPO)
        hub.repository(REPO).plant({"model.safetensors": b"a model of somebody"})
        with pytest.raises(PublishConflictError, match="holds something else"):
            publish_it(folder)
        assert "model.safetensors" in hub.repository(REPO).files()

    def test_a_repository_of_another_organisation(self, publish_it, folder):
        with pytest.raises(PublishRefusedError, match="outside the organisation"):
            publish_it(folder, repo="other/thing")

    def test_a_revoked_artifact(self, client, desk, publish_it, published, folder):
        gone = RevokedArtifact(
            digest=published.entry.digest, reason="unsafe", action="refuse", note="n", since="2026-11-22T00:00:00Z"
        )
        revoke(client, ORGANISATION, artifacts=[gone], signer=PUBLISHER, pulled=desk)
        with pytest.raises(PublishRefusedError, match="revoked"):
            publish_it(folder)

    def test_without_permission_the_next_step_is_to_log_in(self, hub, publish_it, folder, desk):
        stranger = HubClient(hub.endpoint, hub.add_user("eve"))
        with pytest.raises(RegistryAccessError, match="hf auth login"):
            publish(stranger, folder, organisation=ORGANISATION, pulled=desk, signer=PUBLISHER, new_registry=True)

    def test_bytes_that_come_back_changed_are_not_listed(self, hub, client, publish_it, folder, pulled):
        hub.fault("tamper", "GET */resolve/*/weights/*")
        with pytest.raises(ArtifactIntegrityError):
            publish_it(folder)
        assert listed(client, pulled) == ()
        assert hub.repository(REPO).tags == {}


STEPS = (
    "POST /api/repos/create",
    f"POST /api/models/{REPO}/preupload/*",
    f"POST /{REPO}.git/info/lfs/objects/batch",
    "PUT *",
    f"POST /api/models/{REPO}/commit/*",
    f"GET /{REPO}/resolve/*/manifest.json",
    f"GET /{REPO}/resolve/*/weights/*",
    f"GET /api/models/{REPO}/tree/*",
    f"POST /api/models/{REPO}/tag/*",
    f"POST /api/datasets/{INDEX}/commit/*",
    f"GET /datasets/{INDEX}/resolve/*",
)


class TestCrashes:
    @pytest.mark.parametrize("step", STEPS)
    def test_a_failure_at_any_step_leaves_nothing_listed_and_the_next_run_finishes(
        self, hub, client, publish_it, folder, pulled, step
    ):
        fault = hub.fault("forbidden", step, times=1)
        with pytest.raises(RegistryError):
            publish_it(folder)
        assert fault.seen == 1
        hub.lift_faults()
        for entry in listed(client, pulled):
            # Only where the answer to the very last step was lost.
            assert "GET /datasets" in step
            assert entry.digest
        done = publish_it(folder)
        assert listed(client, pulled) == (done.entry,)
        repository = hub.repository(REPO)
        assert repository.tags == {"v1.0.0": done.entry.commit}
        assert len(repository.commits) == 2
        assert len(commits_of(hub, INDEX, "dataset")) == 2

    @pytest.mark.parametrize("repo", [f"/api/models/{REPO}/commit/*", f"/api/datasets/{INDEX}/commit/*"])
    def test_a_lost_answer_to_a_commit_does_not_make_two(self, hub, client, publish_it, folder, pulled, repo):
        hub.fault("lost", f"POST {repo}", times=1)
        with pytest.raises(RegistryUnavailableError):
            publish_it(folder)
        done = publish_it(folder)
        assert listed(client, pulled) == (done.entry,)
        assert len(commits_of(hub, REPO)) == 2
        assert len(commits_of(hub, INDEX, "dataset")) == 2


class TestTwoWriters:
    def test_publishers_of_different_artifacts_at_once_are_both_listed(
        self, client, tmp_path, pulled, publish_it, published
    ):
        folders = [publishable_folder(tmp_path / f"a{n}", variant=f"tiny{n}") for n in range(4)]

        def one(n):
            return publish_it(folders[n], pulled=PulledArtifacts(tmp_path / f"desk{n}"))

        with ThreadPoolExecutor(2) as pool:
            done = [result.result() for result in [pool.submit(one, n) for n in range(4)]]
        assert set(listed(client, pulled)) == {published.entry, *(one.entry for one in done)}

    def test_publishers_of_two_versions_of_one_artifact_at_once_are_both_listed(
        self, hub, client, tmp_path, pulled, publish_it, published
    ):
        folders = [publishable_folder(tmp_path / f"a{n}", version=f"1.{n}.0") for n in (1, 2)]

        def one(n):
            return publish_it(folders[n], pulled=PulledArtifacts(tmp_path / f"desk{n}"))

        with ThreadPoolExecutor(2) as pool:
            done = [result.result() for result in [pool.submit(one, n) for n in range(2)]]
        assert set(listed(client, pulled)) == {published.entry, *(one.entry for one in done)}
        tags = hub.repository(REPO).tags
        assert tags == {f"v{one.entry.version}": one.entry.commit for one in (published, *done)}

    @pytest.mark.parametrize("kind", ["conflict", "stale_parent"])
    def test_a_conflict_is_tried_again(self, hub, client, publish_it, folder, pulled, kind):
        hub.fault(kind, f"POST /api/datasets/{INDEX}/commit/*", times=2)
        hub.fault(kind, f"POST /api/models/{REPO}/commit/*", times=2)
        done = publish_it(folder)
        assert listed(client, pulled) == (done.entry,)

    def test_a_conflict_in_every_attempt_is_an_error(self, hub, publish_it, folder):
        fault = hub.fault("stale_parent", f"POST /api/datasets/{INDEX}/commit/*")
        with pytest.raises(PublishConflictError, match="every attempt"):
            publish_it(folder)
        assert fault.seen == 5


class TestIndex:
    def test_an_index_signed_by_a_stranger_is_not_built_upon(self, hub, client, publish_it, published, tmp_path):
        second = publishable_folder(tmp_path / "second", OTHER, version="1.1.0")
        before = len(commits_of(hub, INDEX, "dataset"))
        with pytest.raises(SignatureError):
            publish_it(second, signer=OTHER, pulled=PulledArtifacts(tmp_path / "other"))
        assert len(commits_of(hub, INDEX, "dataset")) == before

    def test_a_replayed_index_is_refused(self, hub, client, publish_it, published, tmp_path, pulled):
        publish_it(publishable_folder(tmp_path / "second", version="1.1.0"))
        read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        hub.fault("stale", f"*/datasets/{INDEX}*")
        with pytest.raises(RollbackError, match="older state"):
            read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        hub.lift_faults()
        assert read_index(client, ORGANISATION, keys=KEYS, pulled=pulled).index.sequence == 2

    def test_an_index_that_disappears_is_refused(self, hub, client, published, pulled):
        read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        HfApi(endpoint=hub.endpoint, token=hub.token).delete_repo(INDEX, repo_type="dataset")
        with pytest.raises(RollbackError, match="lost"):
            read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)

    def test_a_tampered_index_is_refused(self, hub, client, published, pulled):
        hub.fault("tamper", f"GET /datasets/{INDEX}/resolve/*/{SIGNED_INDEX}")
        with pytest.raises(SignatureError):
            read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        assert pulled.remembered("hf://acme") == {}

    def test_older_revocations_beside_the_newest_index_are_refused(self, hub, client, desk, published, pulled):
        old = hub.repository(INDEX, "dataset").files()[REVOCATIONS]
        key = RevokedKey(key_id=OTHER.public.id, reason="leaked_key", since="2026-11-22T00:00:00Z")
        revoke(client, ORGANISATION, keys=[key], signer=PUBLISHER, pulled=desk)
        read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        hub.repository(INDEX, "dataset").plant({REVOCATIONS: old})
        with pytest.raises(RollbackError, match="older state"):
            read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)

    def test_two_indexes_of_one_sequence_are_refused(self, hub, client, published, pulled):
        index = read_index(client, ORGANISATION, keys=KEYS, pulled=pulled).index
        forged = signed_index_of(
            index.registry, (), sequence=index.sequence, issued=index.issued_at, expires=index.expires_at
        )
        envelope = sign(signed_index_bytes(forged), SIGNED_INDEX_TYPE, [PUBLISHER])
        hub.repository(INDEX, "dataset").plant({SIGNED_INDEX: envelope})
        with pytest.raises(RollbackError, match="same sequence"):
            read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)

    def test_the_index_of_another_registry_is_refused(
        self, hub, client, published, pulled, folder, publish_it, tmp_path
    ):
        publish_it(folder, organisation="lab", pulled=PulledArtifacts(tmp_path / "lab"))
        theirs = hub.repository(f"lab/{INDEX_REPOSITORY}", "dataset").files()[SIGNED_INDEX]
        hub.repository(INDEX, "dataset").plant({SIGNED_INDEX: theirs})
        with pytest.raises(SignatureError, match="another registry"):
            read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)

    def test_a_damaged_memory_proves_nothing_and_is_replaced(self, client, published, pulled):
        read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        right = pulled.remembered("hf://acme")[SIGNED_INDEX]
        pulled.remember("hf://acme", SIGNED_INDEX, right[:-5])
        read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        assert pulled.remembered("hf://acme")[SIGNED_INDEX] == right

    def test_an_index_of_a_rotated_key_does_not_block_the_next_one(self, hub, client, published, pulled, desk):
        read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        renew(client, ORGANISATION, signer=OTHER, index_keys=KEYS, pulled=desk)
        assert read_index(client, ORGANISATION, keys=[OTHER.public], pulled=pulled).index.sequence == 2


class TestRevoke:
    def revoked(self, published):
        return RevokedArtifact(
            digest=published.entry.digest, reason="unsafe", action="refuse", note="n", since="2026-11-22T00:00:00Z"
        )

    def test_a_revocation_is_listed_once(self, client, desk, published, pulled):
        for _ in range(2):
            state = revoke(client, ORGANISATION, artifacts=[self.revoked(published)], signer=PUBLISHER, pulled=desk)
        assert state.revocations.sequence == 2
        seen = read_index(client, ORGANISATION, keys=KEYS, pulled=pulled)
        assert seen.revocations.revoked_as(published.entry).reason == "unsafe"
        assert seen.index.artifacts == (published.entry,)

    @pytest.mark.parametrize("step", ["publish", "plan", "revoke", "renew"])
    def test_a_list_that_somebody_removed_is_not_begun_again(
        self, hub, client, desk, publish_it, published, tmp_path, step
    ):
        """Who may write to the repository must not get an empty list signed by somebody who remembers nothing."""
        revoke(client, ORGANISATION, artifacts=[self.revoked(published)], signer=PUBLISHER, pulled=desk)
        HfApi(endpoint=hub.endpoint, token=hub.token).delete_file(REVOCATIONS, INDEX, repo_type="dataset")
        second, new = publishable_folder(tmp_path / "second", version="1.3.0"), PulledArtifacts(tmp_path / "new")
        before = (len(commits_of(hub, INDEX, "dataset")), len(commits_of(hub, REPO)))
        key = RevokedKey(key_id=OTHER.public.id, reason="leaked_key", since="2026-11-22T00:00:00Z")
        steps = {
            "publish": lambda: publish_it(second, pulled=new),
            "plan": lambda: plan_publication(client, second, organisation=ORGANISATION, pulled=new, index_keys=KEYS),
            "revoke": lambda: revoke(client, ORGANISATION, keys=[key], signer=PUBLISHER, pulled=new),
            "renew": lambda: renew(client, ORGANISATION, signer=PUBLISHER, pulled=new),
        }
        with pytest.raises(RollbackError, match="list of revocations"):
            steps[step]()
        assert (len(commits_of(hub, INDEX, "dataset")), len(commits_of(hub, REPO))) == before

    def test_renewing_keeps_the_content_in_one_commit(self, hub, client, desk, published, pulled):
        revoke(client, ORGANISATION, artifacts=[self.revoked(published)], signer=PUBLISHER, pulled=desk)
        before = len(commits_of(hub, INDEX, "dataset"))
        state = renew(client, ORGANISATION, signer=PUBLISHER, pulled=desk, valid_for=timedelta(days=90))
        assert len(commits_of(hub, INDEX, "dataset")) == before + 1
        assert (state.index.sequence, state.revocations.sequence) == (2, 3)
        assert state.index.artifacts == (published.entry,)
        assert state.revocations.artifacts == (self.revoked(published),)
        assert state.index.expires_at - state.index.issued_at == timedelta(days=90)
