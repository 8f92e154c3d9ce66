"""Revoked artifacts, from the owner's command to the refusal of a running guard, and attempts to keep a revocation away."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from tests.attacked_artifacts import (
    NEW,
    OLD,
    ORGANISATION,
    REFERENCE,
    REQUIRE,
    artifact_files,
    pinned,
    present,
    trusts,
    vouched,
    write,
)
from tests.attacked_registry import local_registry, lock_of
from tests.guarded_models import conversation, prompts, run, shared_model, state_of, tokenizer
from tests.loopback_hubs import REGULAR_UPLOAD
from tests.signed_artifacts import HUB, OWNER, STRANGER, revocations, revoked, signed_list

from steerguard.artifacts.reference import parse_reference
from steerguard.errors import (
    ArtifactNotFoundError,
    PublishConflictError,
    PublishRefusedError,
    RevokedError,
    RollbackError,
    SignatureError,
)
from steerguard.hub.revoke import renew, revoke
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.revoke_locally import revoke_locally
from steerguard.registry.signed_index import SIGNED_INDEX, SIGNED_INDEX_TYPE
from steerguard.signing.dsse import parse_envelope, sign

pytestmark = pytest.mark.filterwarnings(REGULAR_UPLOAD)

TEMPLATE = "I cannot help with that."


def revoke_now(scene, *artifacts, signer=OWNER):
    """What the registry's owner does."""
    revoke(scene.owner, ORGANISATION, artifacts=artifacts, signer=signer, pulled=scene.desk)


def until(condition, seconds=20.0):
    """Wait for the watch's thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def cause(model):
    """Why a request ended as it did."""
    with model.guard.collect() as reports:
        run(model, prompts(1), max_new_tokens=1)
    return reports[0].cause


@pytest.mark.parametrize(
    "named",
    [{"digest": None}, {"family": "harmful-intent", "range": f">={NEW}"}],
    ids=["by digest", "by range"],
)
def test_revoked_artifact(scene, named):
    """The new version is revoked; after locking again the old one is used."""
    named = {**named, "digest": scene.digest} if "digest" in named else named
    scene.wrap()
    revoke_now(scene, revoked(**named))
    scene.sync()
    scene.refuses(RevokedError, scene.load, NEW, HUB, wrap=True)
    scene.refuses(PublishRefusedError, lambda: scene.publish(scene.folder / NEW), "revoked")
    scene.lock = lock_of(scene.policy, scene.registry(), trusts())
    scene.works(OLD)


def test_revoked_family(scene):
    """Everything of it: a lock can only be made for what is left, and that is nothing."""
    revoke_now(scene, revoked(family="harmful-intent"))
    scene.sync()
    scene.refuses(RevokedError, scene.load, HUB, wrap=True)
    scene.refuses(RevokedError, lambda: lock_of(scene.policy, scene.registry(), trusts()))


def test_revoked_with_a_warning(scene):
    """It is said, and it loads."""
    revoke_now(scene, revoked("warn", "superseded", digest=scene.digest))
    scene.works()
    found = next(scene.sources().sources.candidates(parse_reference(REFERENCE)))
    assert any("superseded" in warning for warning in found.evidence.warnings)


def test_revoked_under_another_name(scene):
    """The same bytes, listed under another version, are revoked by digest all the same."""
    revoke_now(scene, revoked(digest=scene.digest))
    scene.sync()
    lock = scene.relocked(version="1.0.5")
    scene.refuses(RevokedError, lambda: scene.load(lock=lock), "1.0.5")
    scene.wrap_refuses(RevokedError, lock=lock)


def test_revoked_while_running(scene):
    """From the owner's command over the Hub and the watch's own thread to the refusal of every row."""
    watching = trusts(extra="revocation: {max_age: 7d, check_every: 1s}", require=REQUIRE)
    before = state_of(shared_model())
    with scene.wrapped(trust=watching) as model:
        assert cause(model) == "default"
        revoke_now(scene, revoked(digest=scene.digest))
        until(lambda: cause(model) == "revoked")
        tokens, _ = run(model, prompts(2), max_new_tokens=30)
        said = tokenizer().batch_decode(tokens[:, prompts(2)["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == [TEMPLATE] * 2
    assert state_of(shared_model()) == before
    scene.wrap_refuses(RevokedError, NEW)
    scene.publish(write(scene.folder / "1.2.0", vouched(artifact_files("1.2.0"))))
    scene.lock = lock_of(scene.policy, scene.registry(), trusts())
    scene.published = {**scene.published, "1.2.0": artifact_files("1.2.0")}
    scene.works("1.2.0")


def test_revocation_withheld_from_a_running_guard(scene):
    """The Hub stops answering: the list that is known ages, and then every row is refused; a new list ends that."""
    renew(scene.owner, ORGANISATION, signer=OWNER, pulled=scene.desk)
    scene.sync()
    wary = trusts(extra="revocation: {max_age: 6s, check_every: 1s}", require=REQUIRE)
    with scene.wrapped(trust=wary) as model:
        assert cause(model) == "default"
        fault = scene.hub.fault("forbidden", match="*steerguard-index*")
        until(lambda: cause(model) == "revoked")
        fault.lift()
        renew(scene.owner, ORGANISATION, signer=OWNER, pulled=scene.desk)
        until(lambda: cause(model) == "default")
    scene.works()


def test_revocation_undone_while_running(scene):
    """An older list, and one of a stranger, are shown after the revocation: it stays."""
    honest = scene.index_file(REVOCATIONS)
    watching = trusts(extra="revocation: {max_age: 7d, check_every: 12h}", require=REQUIRE)
    with scene.wrapped(trust=watching) as model:
        model.guard.check([conversation("hello there")])
        watch = model.guard.revocations.watch
        revoke_now(scene, revoked(digest=scene.digest))
        watch.refresh()
        assert cause(model) == "revoked"
        for shown in (honest, signed_list(revocations(HUB, sequence=9, issued=present()), STRANGER), None):
            scene.plant_index(REVOCATIONS, shown)
            with pytest.raises(Exception, match="expected"):
                watch.refresh()
            assert cause(model) == "revoked"
    scene.wrap_refuses(RevokedError, NEW)


def test_revocation_behind_a_spoiled_index(scene):
    """The index beside the newer list is damaged, a stranger's, an older one or gone: the guard learns of it all the same."""
    old = scene.index_file(SIGNED_INDEX)
    theirs = sign(parse_envelope(old, where="index").payload, SIGNED_INDEX_TYPE, [STRANGER])
    renew(scene.owner, ORGANISATION, signer=OWNER, pulled=scene.desk)
    scene.sync()
    watching = trusts(extra="revocation: {max_age: 7d, check_every: 12h}", require=REQUIRE)
    for number, shown in enumerate((b"{}", theirs, old, None), start=3):
        with scene.wrapped(trust=watching) as model:
            assert cause(model) == "default"
            watch = model.guard.revocations.watch
            listed = revocations(HUB, revoked(digest=scene.digest), sequence=2 * number, issued=present())
            with scene.index_hidden_behind({SIGNED_INDEX: shown}):
                scene.plant_index(REVOCATIONS, signed_list(listed, OWNER))
                watch.refresh()
                assert cause(model) == "revoked"
        scene.wrap_refuses(RevokedError, NEW)
        honest = revocations(HUB, sequence=2 * number + 1, issued=present())
        scene.plant_index(REVOCATIONS, signed_list(honest, OWNER))
        scene.works()


def test_local_list_removed_or_replayed_to_its_owner(scene):
    """The owner of a folder must neither begin its list again unasked nor sign an old one anew."""
    local = local_registry(scene)
    file, begun = local.registry.root / REVOCATIONS, (local.registry.root / REVOCATIONS).read_bytes()

    def change(store, **known):
        given = {"signer": OWNER, "pulled": store, "valid_for": timedelta(days=30), **known}
        return lambda: revoke_locally(local.registry, artifacts=[revoked(family="other")], **given)

    change(scene.desk, at_least=1)()
    honest, new = file.read_bytes(), PulledArtifacts(scene.folder / "new-desk")
    file.unlink()
    scene.refuses(ArtifactNotFoundError, change(new), "--new-registry")
    scene.refuses(RollbackError, change(scene.desk), "sequence 2 or higher", "no such file")
    scene.refuses(RollbackError, change(scene.desk, new_registry=True), "sequence 2 or higher", "no such file")
    assert not file.exists()
    file.write_bytes(begun)
    scene.refuses(RollbackError, change(new), "list 1, issued", "--at-least")
    scene.refuses(RollbackError, change(new, at_least=2), "list 1, issued")
    scene.refuses(RollbackError, change(scene.desk), "sequence 1")
    scene.refuses(PublishConflictError, change(new, new_registry=True), "there is one already")
    assert file.read_bytes() == begun
    assert not new.remembered(local.registry.name), "what was refused must not become what is known"
    file.write_bytes(honest)
    assert change(new, at_least=2)().sequence == 3
    local.works()


def test_revocation_by_a_stranger(scene):
    """Somebody with write access to the Hub and a key of their own wants to switch guards off."""
    scene.refuses(SignatureError, lambda: revoke_now(scene, revoked(digest=scene.digest), signer=STRANGER))
    listed = revocations(HUB, revoked(digest=scene.digest), sequence=9, issued=present())
    with scene.index_hidden_behind({REVOCATIONS: signed_list(listed, STRANGER)}):
        scene.refuses(SignatureError, scene.sync, HUB)
        scene.wrap()
    assert scene.load() == pinned(scene.published[NEW])
    scene.works()
