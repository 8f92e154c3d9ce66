"""`wrap(..., trust=...)` watches: real signed lists in folders and on a hub, read by the watch's own thread."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import structlog
from tests.guarded_models import (
    TEMPLATE,
    conversation,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    tokenizer,
)
from tests.loopback_hubs import client_online
from tests.signed_artifacts import (
    ACME,
    ACME_NEXT,
    HUB,
    OWNER,
    STRANGER,
    attest_all,
    put_list,
    revocations,
    revoked,
    revoked_key,
    signed_list,
    trust_text,
)

import steerguard
from steerguard.errors import RevokedError, StaleError, TrustError
from steerguard.hub.client import HubClient
from steerguard.hub.revoke import revoke
from steerguard.registry.local import LocalDirectory
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.revocations import REVOCATIONS
from steerguard.testing import MemorySink
from steerguard.testing.loopback_hub import LoopbackHub
from steerguard.trust.load import parse_trust
from steerguard.watching import ListReader

FAST = "revocation: {max_age: 7d, check_every: 1s}"
SLOW = "revocation: {max_age: 7d, check_every: 12h}"


def until(condition, seconds=20.0):
    """Wait for the watch's thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def fresh(registry, *entries, sequence=1, age=timedelta(0), **more):
    """A list that was issued just now by the real clock."""
    return revocations(registry, *entries, sequence=sequence, issued=datetime.now(UTC) - age, **more)


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))


@pytest.fixture(scope="module")
def model():
    return fresh_model()


@pytest.fixture
def registry(model, tmp_path):
    """A copy of the tiny registry, every artifact signed by both keys of the publisher."""
    found = LocalDirectory(shutil.copytree(registry_for(model).root, tmp_path / "registry"))
    attest_all(found, ACME, ACME_NEXT)
    return found


def trusted(registry, *, extra=SLOW, require="{signatures: 1}", signed=True):
    text = trust_text(
        registries=[registry.name],
        keys=[ACME, ACME_NEXT],
        require=require,
        signed=[registry.name] if signed else [],
        extra=extra,
    )
    return parse_trust(text, file="trust.yaml", today=datetime.now(UTC).date())


@contextmanager
def watching(model, registry, document=None, *, sink=None, **settings):
    """The model under a guard that was made with a trust policy."""
    with guarded(
        model,
        document or policy(1e6),
        registry=registry,
        audit=memory_log(sink),
        trust=trusted(registry, **settings),
    ) as wrapped:
        guard = wrapped.guard
        yield wrapped
    guard.audit.close()


def cause(wrapped, **named):
    with wrapped.guard.collect() as reports:
        run(wrapped, prompts(1), max_new_tokens=1, **named)
    return reports[0].cause


def told(sink):
    return [record for record in map(json.loads, sink.lines) if record["type"] == "artifact.revoked"]


def test_a_list_that_is_published_while_the_guard_runs_disables_it(model, registry):
    put_list(registry.root, fresh(registry.name), OWNER)
    sink = MemorySink()
    with watching(model, registry, sink=sink, extra=FAST) as wrapped:
        assert not wrapped.guard.revocations.watch.is_running
        assert cause(wrapped) == "default"
        put_list(registry.root, fresh(registry.name, revoked(family="harmful-intent"), sequence=2), OWNER)
        until(lambda: cause(wrapped) == "revoked")
        tokens, _ = run(wrapped, prompts(2), max_new_tokens=30)
        said = tokenizer().batch_decode(tokens[:, prompts(2)["input_ids"].shape[1] :], skip_special_tokens=True)
        assert said == [TEMPLATE] * 2
        put_list(registry.root, fresh(registry.name, sequence=3), OWNER)
        until(lambda: cause(wrapped) == "default")
        watch = wrapped.guard.revocations.watch
    assert not watch.is_running
    assert [(record["registry"], record["state"], record["sequence"]) for record in told(sink)] == [
        (registry.name, "revoked", 2),
        (None, "restored", None),
    ]


@pytest.mark.parametrize(
    ("entries", "age", "error"),
    [
        ([revoked(family="harmful-intent")], timedelta(0), RevokedError),
        ([], timedelta(days=8), StaleError),
    ],
    ids=["revoked", "stale"],
)
def test_what_is_known_on_load_raises_on_load_and_leaves_no_thread(model, registry, entries, age, error):
    put_list(registry.root, fresh(registry.name, *entries, age=age), OWNER)
    with pytest.raises(error), watching(model, registry):
        pass
    assert "steerguard-revocations" not in {thread.name for thread in threading.enumerate()}


def test_a_warning_that_is_known_on_load_is_recorded_with_the_first_request(model, registry):
    warns = revoked("warn", "superseded", family="harmful-intent")
    put_list(registry.root, fresh(registry.name, warns), OWNER)
    sink = MemorySink()
    with watching(model, registry, sink=sink) as wrapped:
        assert (told(sink), cause(wrapped)) == ([], "default")
        assert [(record["action"], record["reason"]) for record in told(sink)] == [("warn", "superseded")]


@pytest.mark.parametrize("attack", ["a stranger's signature", "another registry's list", "an older list", "no list"])
def test_what_is_not_a_newer_list_of_the_registry_brings_nothing_back(model, registry, attack):
    put_list(registry.root, fresh(registry.name, sequence=4), OWNER)
    bad = revoked(family="harmful-intent")
    with watching(model, registry) as wrapped:
        assert cause(wrapped) == "default"
        watch = wrapped.guard.revocations.watch
        until(lambda: watch.is_running)
        put_list(registry.root, fresh(registry.name, bad, sequence=5), OWNER)
        watch.refresh()
        assert cause(wrapped) == "revoked"
        if attack == "a stranger's signature":
            put_list(registry.root, fresh(registry.name, sequence=6), STRANGER)
        elif attack == "another registry's list":
            put_list(registry.root, fresh(HUB, sequence=6), OWNER)
        elif attack == "an older list":
            put_list(registry.root, fresh(registry.name, sequence=4), OWNER)
        else:
            (registry.root / REVOCATIONS).unlink()
        with pytest.raises(TrustError):
            watch.refresh()
        assert cause(wrapped) == "revoked"


@pytest.mark.parametrize(
    ("require", "keys", "disabled"),
    [
        ("{signatures: 1}", [ACME], False),
        ("{signatures: 2}", [ACME], True),
        ("{signatures: 1}", [ACME, ACME_NEXT], True),
    ],
    ids=["one of two", "one of two that are needed", "both"],
)
def test_a_revoked_key_disables_what_too_few_other_keys_signed(model, registry, require, keys, disabled):
    put_list(registry.root, fresh(registry.name), OWNER)
    sink = MemorySink()
    with watching(model, registry, require=require, sink=sink) as wrapped:
        assert cause(wrapped) == "default"
        put_list(registry.root, fresh(registry.name, keys=[revoked_key(key) for key in keys], sequence=2), OWNER)
        wrapped.guard.revocations.watch.refresh()
        assert (cause(wrapped) == "revoked") == disabled
    assert {record["reason"] for record in told(sink)} == ({"leaked_key"} if disabled else set())


def test_a_stricter_policy_of_one_request_is_refused_for_what_it_uses_too(model, registry):
    put_list(registry.root, fresh(registry.name), OWNER)
    sink = MemorySink()
    with watching(model, registry, policy(1e6), sink=sink) as wrapped:
        assert cause(wrapped, policy=policy(1e6, "refuse")) == "default"
        # The stricter policy steers nothing; what the policy in force uses counts for it all the same.
        put_list(registry.root, fresh(registry.name, revoked(family="inferaligner"), sequence=2), OWNER)
        wrapped.guard.revocations.watch.refresh()
        assert cause(wrapped, policy=policy(1e6, "refuse")) == "revoked"
        assert cause(wrapped) == "revoked"
    assert len(told(sink)) == 1


def test_without_trust_or_without_a_registry_that_signs_nothing_is_watched(model, registry):
    with guarded(model, policy(1e6), registry=registry) as wrapped:
        assert wrapped.guard.revocations is None
        assert wrapped.guard.engine.artifacts == ()
        assert cause(wrapped) == "default"
    with watching(model, registry, signed=False) as wrapped:
        assert wrapped.guard.revocations is None
        assert cause(wrapped) == "default"
    assert "steerguard-revocations" not in {thread.name for thread in threading.enumerate()}


def test_a_model_that_is_dropped_without_unwrap_ends_its_watch(registry):
    dropped = fresh_model()
    put_list(registry.root, fresh(registry.name), OWNER)
    log = memory_log()
    wrapped = steerguard.wrap(
        dropped, policy(1e6), tokenizer=tokenizer(), registry=registry, audit=log, trust=trusted(registry)
    )
    wrapped.guard.check([conversation("hello")])
    assert "steerguard-revocations" in {thread.name for thread in threading.enumerate()}
    del wrapped, dropped
    gc.collect()
    until(lambda: "steerguard-revocations" not in {thread.name for thread in threading.enumerate()})
    log.close()


def test_a_revocation_in_a_list_that_came_too_late_still_counts(model, registry):
    """The newest list has expired already and the one before has not: what is known to be revoked is not used."""
    put_list(registry.root, fresh(registry.name), OWNER)
    with watching(model, registry, sink=(sink := MemorySink()), extra=FAST) as wrapped:
        assert cause(wrapped) == "default"
        late = fresh(
            registry.name,
            revoked(family="harmful-intent"),
            sequence=2,
            age=timedelta(hours=2),
            valid_for=timedelta(hours=1),
        )
        put_list(registry.root, late, OWNER)
        until(lambda: cause(wrapped) == "revoked")
    assert {record["sequence"] for record in told(sink)} == {2}


def hub_trust(registry, every="1s"):
    text = trust_text(
        registries=[registry.name],
        keys=[ACME],
        signed=[HUB],
        extra=f"revocation: {{max_age: 7d, check_every: {every}}}",
    )
    return parse_trust(text, file="trust.yaml", today=datetime.now(UTC).date())


def test_the_list_of_a_registry_on_a_hub_reaches_a_running_guard(model, registry, tmp_path, monkeypatch):
    """The guard's artifacts lie in a folder; what is revoked on the hub is revoked there as well."""
    publishers = PulledArtifacts(tmp_path / "publisher")
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        owner = HubClient(token=hub.token)
        begun = [revoked(family="somebody-else")]
        revoke(owner, "acme", signer=OWNER, pulled=publishers, artifacts=begun, new_registry=True)
        ListReader(hub_trust(registry), PulledArtifacts())(HUB)
        before = len(hub.requests)
        log = memory_log(sink := MemorySink())
        with guarded(model, policy(1e6), registry=registry, audit=log, trust=hub_trust(registry)) as wrapped:
            assert len(hub.requests) == before, "wrap asks no hub"
            assert cause(wrapped) == "default"
            revoke(owner, "acme", signer=OWNER, pulled=publishers, artifacts=[revoked(family="harmful-intent")])
            until(lambda: cause(wrapped) == "revoked")
            hub.fault("unavailable", times=1000)
            assert cause(wrapped) == "revoked"
        log.close()
    assert {record["registry"] for record in told(sink)} == {HUB}


def test_a_hub_that_does_not_answer_leaves_what_another_process_remembered(registry, tmp_path):
    pulled = PulledArtifacts(tmp_path / "shared")
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        hub.fault("unavailable", times=1000)
        reader = ListReader(hub_trust(registry), pulled, HubClient(endpoint=hub.endpoint))
        pulled.remember(HUB, REVOCATIONS, signed_list(fresh(HUB, sequence=7), OWNER))
        with structlog.testing.capture_logs() as logs:
            assert [reader(HUB).sequence, reader(HUB).sequence] == [7, 7]
    assert [(line["event"], line["error"]) for line in logs] == [
        ("revocations_not_fetched", "RegistryUnavailableError")
    ]


def test_offline_only_the_remembered_list_is_read(registry, tmp_path):
    pulled = PulledArtifacts(tmp_path / "shared")
    with LoopbackHub() as hub, client_online(hub, tmp_path / "home"):
        reader = ListReader(hub_trust(registry), pulled, HubClient(endpoint=hub.endpoint, offline=True))
        with pytest.raises(StaleError):
            reader(HUB)
        pulled.remember(HUB, REVOCATIONS, signed_list(fresh(HUB, sequence=7), OWNER))
        assert reader(HUB).sequence == 7
        assert hub.requests == []
