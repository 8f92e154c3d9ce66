"""Beginning a registry on the Hub: once, by one writer, and finished after an interruption."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.publishable_artifacts import ORGANISATION, OTHER, PUBLISHER, publishable_folder

from steerguard.errors import PublishConflictError, RegistryError, RollbackError, StaleError
from steerguard.hub.footing import Floor
from steerguard.hub.read_index import index_repository, read_index
from steerguard.hub.revoke import renew, revoke
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS, RevokedKey
from steerguard.registry.signed_index import SIGNED_INDEX

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)


def entries_of(client, pulled):
    """What a reader with this store sees."""
    return read_index(client, ORGANISATION, keys=[PUBLISHER.public], pulled=pulled).index.artifacts


def test_of_two_that_begin_a_registry_at_once_one_is_told(client, tmp_path, pulled, publish_it):
    folders = [publishable_folder(tmp_path / f"a{n}", variant=f"tiny{n}") for n in range(2)]

    def one(n):
        try:
            return publish_it(
                folders[n], pulled=PulledArtifacts(tmp_path / f"desk{n}"), at_least=None, new_registry=True
            )
        except PublishConflictError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        done = [result.result() for result in [pool.submit(one, n) for n in range(2)]]
    told = [found for found in done if isinstance(found, PublishConflictError)]
    (first,) = [found for found in done if found not in told]
    assert "there is one already" in str(*told)
    assert entries_of(client, pulled) == (first.entry,)
    lost = done.index(*told)
    publish_it(folders[lost], pulled=PulledArtifacts(tmp_path / f"desk{lost}"))
    assert len(entries_of(client, pulled)) == 2


def test_a_registry_may_begin_with_a_revocation(client, desk, publish_it, folder, pulled):
    key = RevokedKey(key_id=OTHER.public.id, reason="leaked_key", since="2026-11-22T00:00:00Z")
    begin = {"keys": [key], "signer": PUBLISHER, "pulled": desk, "new_registry": True}
    state = revoke(client, ORGANISATION, **begin)
    assert (state.index.artifacts, state.revocations.keys) == ((), (key,))
    assert revoke(client, ORGANISATION, **begin).revocations.sequence == 1, "as after an interruption"
    assert publish_it(folder, at_least=None).state.index.sequence == 2


def test_an_interrupted_beginning_is_finished(publish_it, folder, tmp_path, published):
    again = publish_it(folder, pulled=PulledArtifacts(tmp_path / "new"), at_least=None, new_registry=True)
    assert again.entry == published.entry
    assert again.state.index.sequence == 1


def test_who_began_a_registry_and_got_no_answer_knows_it_as_its_own(hub, client, desk, publish_it, folder):
    hub.fault("lost", match="POST */steerguard-index/commit/*", times=1)
    with pytest.raises(RegistryError):
        publish_it(folder, pulled=desk, at_least=None, new_registry=True)
    assert publish_it(folder, pulled=desk, at_least=None, new_registry=True).state.index.sequence == 1
    state = revoke(
        client,
        ORGANISATION,
        keys=[RevokedKey(key_id=OTHER.public.id, reason="leaked_key", since="2026-11-22T00:00:00Z")],
        signer=PUBLISHER,
        pulled=desk,
    )
    assert state.revocations.sequence == 2


def put_back(hub, client, commit):
    """Show index and list of an earlier commit, as anybody with write access can."""
    repo = index_repository(ORGANISATION)
    files = hub.repository(repo, "dataset").files(commit)
    shown = {name: files[name] for name in (SIGNED_INDEX, REVOCATIONS)}
    head = client.head(repo, repo_type="dataset")
    client.commit(repo, additions=shown, parent=head, message="Restore", repo_type="dataset")


@pytest.mark.parametrize("age", [timedelta(0), timedelta(days=400)], ids=["valid", "expired"])
def test_what_a_store_has_only_read_is_not_signed_anew(age, hub, client, desk, publish_it, folder, tmp_path):
    """An old state that was shown to a reader must not become what a writer knows: the revocation would be gone."""
    first = publish_it(folder, now=lambda: datetime.now(UTC) - age).state
    key = RevokedKey(key_id=OTHER.public.id, reason="leaked_key", since="2026-11-22T00:00:00Z")
    revoke(client, ORGANISATION, keys=[key], signer=PUBLISHER, pulled=desk)
    put_back(hub, client, first.commit)
    reader = PulledArtifacts(tmp_path / "reader")
    try:
        assert entries_of(client, reader) == first.index.artifacts
    except StaleError:
        assert age
    for change in (
        lambda: renew(client, ORGANISATION, signer=PUBLISHER, pulled=reader),
        lambda: publish_it(folder, pulled=reader, at_least=None),
    ):
        with pytest.raises(RollbackError, match="has never written") as caught:
            change()
        assert "--at-least" in caught.value.next_step
    with pytest.raises(RollbackError, match="older state than the writer knows of"):
        renew(client, ORGANISATION, signer=PUBLISHER, pulled=reader, at_least=Floor(index=1, revocations=2))


def test_a_store_that_was_told_the_sequences_once_goes_on(client, published, tmp_path):
    other = {"signer": PUBLISHER, "pulled": PulledArtifacts(tmp_path / "other")}
    entries_of(client, other["pulled"])
    assert renew(client, ORGANISATION, **other, at_least=Floor(index=1, revocations=1)).index.sequence == 2
    assert renew(client, ORGANISATION, **other).index.sequence == 3
