"""Attacks on the registry on the Hub: tags, names, and the signed index and list shown late, early, twice or not at all."""

from __future__ import annotations

from datetime import timedelta

import pytest
from huggingface_hub import HfApi
from tests.attacked_artifacts import (
    INDEX_REPO,
    NEW,
    OLD,
    ORGANISATION,
    REFERENCE,
    REPO,
    artifact_files,
    pinned,
    present,
    vouched,
    write,
)
from tests.attacked_registry import lock_of
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import HUB, OWNER, STRANGER, revocations, revoked, signed_list

from steerguard.errors import (
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    PublishConflictError,
    RegistryAccessError,
    RegistryUnavailableError,
    RollbackError,
    SignatureError,
    StaleError,
    UnlockedArtifactError,
)
from steerguard.hub.footing import Floor
from steerguard.hub.publish import publish
from steerguard.hub.revoke import renew, revoke
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.signed_index import SIGNED_INDEX

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


def first_index(scene):
    """The signed index as it was when only the old version was published."""
    repository = scene.hub.repository(INDEX_REPO, "dataset")
    for commit in repository.commits:
        if SIGNED_INDEX in commit.files:
            return repository.files(commit.oid)[SIGNED_INDEX]
    raise AssertionError("there was none")


def test_moved_tag(scene):
    """Tags are never asked: the lock and the index name commits."""
    other = scene.hub.repository(REPO).plant(vouched(artifact_files(NEW, license="mit")))
    scene.hub.move_tag(REPO, f"v{NEW}", other)
    scene.new_machine()
    scene.works()
    assert scene.load() == pinned(scene.published[NEW])
    again = write(scene.folder / "again", vouched(scene.published[NEW]))
    scene.refuses(PublishConflictError, lambda: scene.publish(again), f"v{NEW}")
    scene.works()


def test_moved_branch(scene):
    """The newest commit of the artifact's repository is never asked for either."""
    scene.hub.repository(REPO).plant({"README.md": b"other"}, delete=["manifest.json"])
    scene.new_machine()
    scene.works()


def test_re_registered_namespace(scene):
    """The organisation is gone; somebody else takes its name and publishes under it with keys of their own."""
    kept = {(repo, kind): scene.hub.repository(repo, kind).history for repo, kind in
            ((REPO, "model"), (INDEX_REPO, "dataset"))}  # fmt: skip
    api = HfApi(endpoint=scene.hub.endpoint, token=scene.hub.token)
    for repo, kind in kept:
        api.delete_repo(repo, repo_type=kind)
    folder = write(scene.folder / "theirs", vouched(artifact_files(NEW), signers=(STRANGER,), vetter=STRANGER))
    publish(
        scene.owner,
        folder,
        organisation=ORGANISATION,
        pulled=PulledArtifacts(scene.folder / "their-desk"),
        signer=STRANGER,
        new_registry=True,
    )
    scene.refuses(SignatureError, scene.sync, HUB)
    scene.refuses(SignatureError, scene.registry().entries, OWNER.public.id)
    scene.wrap()
    scene.new_machine()
    scene.refuses(SignatureError, scene.sync, HUB)
    scene.wrap_refuses(StaleError, HUB)
    for (repo, kind), history in kept.items():
        scene.hub.repository(repo, kind).change(lambda _, history=history: history)
    scene.works()


def test_replayed_index(scene):
    """An older index, signed by the right key: lower number than this machine, or the lock, has seen."""
    with scene.index_hidden_behind({SIGNED_INDEX: first_index(scene)}):
        scene.refuses(RollbackError, scene.sync, "sequence 1", "sequence 2")
        scene.refuses(RollbackError, scene.registry().entries, "sequence 1")
        scene.wrap()
        scene.new_machine()
        scene.refuses(RollbackError, scene.sync, "sequence 2 or higher")
        scene.wrap_refuses((ArtifactNotFoundError, StaleError))
    scene.works()


def test_replayed_index_by_an_older_branch(scene):
    """The whole index repository goes back to an earlier commit."""
    fault = scene.hub.fault("stale", match=f"*{INDEX_REPO}*", commit=_commit_of_first_index(scene))
    scene.refuses(RollbackError, scene.sync, HUB)
    assert fault.seen
    scene.wrap()
    fault.lift()
    scene.works()


def _commit_of_first_index(scene):
    return next(one.oid for one in scene.hub.repository(INDEX_REPO, "dataset").commits if SIGNED_INDEX in one.files)


def test_two_indexes_with_one_sequence(scene):
    """The same number with other content: somebody signs a second state for some readers."""
    index = scene.registry().state().index
    honest = scene.index_file(SIGNED_INDEX)
    scene.sign_index([one for one in index.artifacts if one.version == OLD], index.sequence)
    scene.refuses(RollbackError, scene.sync, "two different states")
    scene.refuses(RollbackError, scene.registry().entries, "two different states")
    scene.wrap()
    scene.new_machine()
    scene.refuses(RollbackError, scene.sync, "two different states")
    scene.plant_index(SIGNED_INDEX, honest)
    scene.works()


def test_replayed_revocations(scene):
    old = scene.index_file(REVOCATIONS)
    revoke(scene.owner, ORGANISATION, artifacts=[revoked(family="other")], signer=OWNER, pulled=scene.desk)
    scene.sync()
    with scene.index_hidden_behind({REVOCATIONS: old}):
        scene.refuses(RollbackError, scene.sync, "sequence 1", "sequence 2")
        scene.refuses(RollbackError, scene.registry().entries, REVOCATIONS)
    scene.works()


def test_frozen_index(scene):
    """The hub shows the same index for ever: it expires, and its age is bounded before that."""
    later = present() + timedelta(days=31)
    scene.refuses(StaleError, lambda: scene.sync(now=lambda: later), "expired")
    scene.refuses(StaleError, scene.registry(now=lambda: later).entries, "expired")
    soon = present() + timedelta(days=8)
    scene.refuses(StaleError, lambda: scene.sync(now=lambda: soon, max_age=timedelta(days=7)), "older than")
    renew(scene.owner, ORGANISATION, signer=OWNER, pulled=scene.desk, now=lambda: later)
    scene.sync(now=lambda: later, max_age=timedelta(days=7))
    assert len(scene.registry(now=lambda: later).entries()) == 2
    assert scene.store.sound(scene.digest)


def test_frozen_revocations(scene):
    """A list older than `max_age` counts as if everything were revoked; `wrap` reads the real clock."""
    old = revocations(HUB, sequence=2, issued=present() - timedelta(days=8))
    scene.plant_index(REVOCATIONS, signed_list(old, OWNER))
    scene.sync()
    scene.refuses(StaleError, scene.load, REVOCATIONS, wrap=True)
    renew(scene.owner, ORGANISATION, signer=OWNER, pulled=scene.desk)
    scene.works()


def test_index_from_the_future(scene):
    index = scene.registry().state().index
    honest = scene.index_file(SIGNED_INDEX)
    scene.new_machine()
    scene.sign_index(index.artifacts, index.sequence, age=-timedelta(days=1))
    scene.refuses(StaleError, lambda: scene.registry(PulledArtifacts(scene.folder / "other")).entries(), "future")
    scene.plant_index(SIGNED_INDEX, honest)
    scene.works()


@pytest.mark.parametrize("name", [SIGNED_INDEX, REVOCATIONS])
def test_withheld_document(scene, name):
    """The index or the list is taken away: nobody may conclude that there is none."""
    with scene.index_hidden_behind({name: None}):
        scene.refuses(RollbackError, scene.sync, name)
        scene.wrap()
        scene.new_machine()
        scene.refuses((ArtifactNotFoundError, RollbackError), scene.sync, name)
        scene.wrap_refuses((ArtifactNotFoundError, StaleError))
    scene.works()


@pytest.mark.parametrize(
    ("fault", "error"),
    [("unavailable", RegistryUnavailableError), ("forbidden", RegistryAccessError), ("missing", RollbackError)],
)
def test_withheld_registry(scene, fault, error):
    """The hub does not answer for the index: what is locked and pulled goes on until its list is too old."""
    match = f"*{INDEX_REPO}*"
    spoiled = scene.hub.fault(fault, match=match)
    scene.refuses(error, scene.sync)
    scene.wrap()
    spoiled.lift()
    scene.works()


def test_withheld_artifact(scene):
    scene.forget_artifact()
    fault = scene.hub.fault("missing", match=f"*{scene.commit}*")
    scene.refuses(ArtifactNotFoundError, scene.sync, scene.commit)
    scene.wrap_refuses(ArtifactNotFoundError, "steerguard sync")
    fault.lift()
    scene.works()


def test_downgrade_to_an_older_signed_version(scene):
    """The old version is as well signed as the new one; with a lock, or after the newer was seen, it is not taken."""
    honest = scene.registry().state().index
    shown = scene.index_file(SIGNED_INDEX)
    scene.forget_artifact()
    scene.serve(scene.published[OLD])
    scene.refuses(ArtifactIntegrityError, scene.sync, scene.digest)
    scene.wrap_refuses(ArtifactNotFoundError)
    scene.serve(scene.published[NEW])
    scene.sign_index([scene.entry(OLD)], honest.sequence - 1)
    scene.refuses(RollbackError, lambda: lock_of(scene.policy, scene.registry(), scene.trust), "sequence 2 or higher")
    scene.plant_index(SIGNED_INDEX, shown)
    scene.works()


def test_downgrade_by_spoiling_the_newer_version(scene):
    """Whoever strips the signature of the highest version does not make a reader take a lower one."""
    registry = scene.registry()
    release = next(path for path in scene.published[NEW] if "release." in path)
    scene.serve({}, delete=[release])
    scene.new_machine()
    scene.refuses(SignatureError, lambda: lock_free(scene), NEW)
    scene.serve({release: scene.published[NEW][release]})
    assert registry.entries()
    assert lock_free(scene) == pinned(scene.published[NEW])
    scene.works()


def lock_free(scene):
    """What a reader without a lock gets, in mode `monitor`."""
    return scene.load(lock=None, enforce=False)


def changes_of(scene, store, **known):
    """What an owner may do to the registry, from a machine with this store."""
    given = {"signer": OWNER, "pulled": store, **known}
    folder = write(scene.folder / "next", vouched(artifact_files("1.2.0")))
    renewing = {name: value for name, value in given.items() if name != "new_registry"}
    more = [revoked(family="somebody-else")]
    return (
        lambda: scene.publish(folder, **{"new_registry": False, "at_least": None, **given}),
        lambda: revoke(scene.owner, ORGANISATION, artifacts=more, **given),
        lambda: renew(scene.owner, ORGANISATION, **renewing),
    )


def test_deleted_registry_begun_again(scene):
    """Somebody with write access deletes the index repository: no owner may begin at 1 again without saying so."""
    repository = scene.hub.repository(INDEX_REPO, "dataset")
    history = repository.history
    HfApi(endpoint=scene.hub.endpoint, token=scene.hub.token).delete_repo(INDEX_REPO, repo_type="dataset")
    new = PulledArtifacts(scene.folder / "new-desk")
    for change in changes_of(scene, new):
        scene.refuses(ArtifactNotFoundError, change, "--new-registry")
    for known in ({}, {"new_registry": True}):
        for change in changes_of(scene, scene.desk, **known):
            scene.refuses(RollbackError, change, "which was there before")
    for change in changes_of(scene, new, at_least=Floor(index=2, revocations=1)):
        scene.refuses(RollbackError, change, "sequence 2 or higher", "no such file")
    with pytest.raises(ArtifactNotFoundError):
        scene.hub.repository(INDEX_REPO, "dataset").files()
    scene.owner.create_repository(INDEX_REPO, repo_type="dataset", private=None)
    scene.hub.repository(INDEX_REPO, "dataset").change(lambda _: history)
    for change in changes_of(scene, new, new_registry=True)[:2]:
        scene.refuses(PublishConflictError, change, "index 2, issued")
    scene.works()


def test_replayed_registry_signed_anew(scene):
    """Index and list of an earlier commit are shown to an owner whose machine remembers nothing."""
    revoke(scene.owner, ORGANISATION, artifacts=[revoked(family="one")], signer=OWNER, pulled=scene.desk)
    files = scene.hub.repository(INDEX_REPO, "dataset").files(_commit_of_first_index(scene))
    new = PulledArtifacts(scene.folder / "new-desk")
    with scene.index_hidden_behind({name: files[name] for name in (SIGNED_INDEX, REVOCATIONS)}):
        head = scene.hub.repository(INDEX_REPO, "dataset").head
        for change in changes_of(scene, new):
            error = scene.refuses(RollbackError, change, "index 1, issued", "list of revocations 1, issued")
            assert "--at-least" in error.next_step
        for floor in (Floor(index=2, revocations=1), Floor(index=1, revocations=2)):
            for change in changes_of(scene, new, at_least=floor):
                scene.refuses(RollbackError, change, "older state than the writer knows of", "sequence 2 or higher")
        for change in changes_of(scene, new, new_registry=True)[:2]:
            scene.refuses(PublishConflictError, change, "there is one already")
        for change in changes_of(scene, scene.desk):
            scene.refuses(RollbackError, change, "sequence 1")
        assert scene.hub.repository(INDEX_REPO, "dataset").head == head
    assert not new.remembered(HUB), "what was refused must not become what is known"
    for change in changes_of(scene, new, at_least=Floor(index=2, revocations=2)):
        change()
    scene.works()


def test_remote_artifact_without_a_lock(scene):
    """In mode `enforce` nothing remote loads unlocked, whoever signed it, and the hub is not even asked."""
    scene.hub.forget_requests()
    scene.refuses(UnlockedArtifactError, lambda: scene.load(lock=None), REFERENCE)
    scene.wrap_refuses(UnlockedArtifactError, lock=None)
    scene.wrap_refuses(SignatureError, trust=None)
    assert scene.hub.requests == []
    scene.works()
