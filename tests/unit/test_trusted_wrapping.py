"""`wrap` with `trust=` and `lock=`: what loads, what does not, and that nothing is asked of a network."""

from __future__ import annotations

import json
import shutil
import socket
from contextlib import contextmanager
from datetime import timedelta

import pytest
import structlog
import torch
from tests.guarded_models import (
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    shared_model,
    state_of,
    tokenizer,
)
from tests.signed_artifacts import ACME, HUB, STRANGER, attest_all, revoked
from tests.trusted_models import locked_project, on_the_hub

import steerguard
from steerguard.errors import (
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    LockFormatError,
    LockMismatchError,
    RevokedError,
    RollbackError,
    SignatureError,
    StaleError,
    TrustPolicyError,
    UnlockedArtifactError,
    WrapError,
)
from steerguard.registry.local import create_registry
from steerguard.registry.lockfile import lockfile_of, read_lock
from steerguard.testing import MemorySink
from steerguard.trust.load import load_trust


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("STEERGUARD_STORE", str(tmp_path / "store"))
    return locked_project(tmp_path, shared_model())


@pytest.fixture
def no_network(monkeypatch):
    """Every connection and every look-up of a name fails the test."""

    def refused(*_arguments, **_named):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket.socket, "connect_ex", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@contextmanager
def wrapped(project, sink=None, document=None, **named):
    settings = {"trust": project.trust, "lock": project.lock, **named}
    log = memory_log(sink)
    model = steerguard.wrap(shared_model(), document or project.policy, tokenizer=tokenizer(), audit=log, **settings)
    try:
        yield model
    finally:
        steerguard.unwrap(model)
        log.close()


def refused(kind, project, *, sink=None, **named):
    model = shared_model()
    before = state_of(model)
    log = memory_log(sink)
    settings = {"trust": project.trust, "lock": project.lock, "document": project.policy, **named}
    document = settings.pop("document")
    with pytest.raises(kind) as caught:
        steerguard.wrap(model, document, tokenizer=tokenizer(), audit=log, **settings)
    log.close()
    assert state_of(model) == before
    return str(caught.value)


def test_what_is_locked_and_pulled_is_wrapped_without_a_network(project, no_network):
    sink = MemorySink()
    with wrapped(project, sink) as model:
        assert {pin.family for pin in model.guard.plan.artifacts} == {"harmful-intent", "inferaligner"}
        guided = model.generate(**prompts(2), max_new_tokens=4, do_sample=False)
    loads = [record for record in map(json.loads, sink.lines) if record["type"] == "artifact.load"]
    assert [record["signed_by"] for record in loads] == [[ACME.public.id]] * 2
    assert [record["vetting_level"] for record in loads] == [None] * 2
    with guarded(shared_model()) as plain:
        assert torch.equal(plain.generate(**prompts(2), max_new_tokens=4, do_sample=False), guided)


def test_trust_and_lock_may_be_documents(project, no_network):
    with wrapped(project, trust=load_trust(project.trust), lock=read_lock(project.lock)):
        pass
    with wrapped(project, trust=str(project.trust), lock=str(project.lock)):
        pass


def test_without_a_signature_asked_for_none_is_recorded():
    sink = MemorySink()
    with guarded(shared_model(), audit=memory_log(sink)):
        pass
    loads = [record for record in map(json.loads, sink.lines) if record["type"] == "artifact.load"]
    assert [(record["signed_by"], record["vetting_level"]) for record in loads] == [([], None)] * 2


def test_nothing_unlocked_of_the_hub_is_loaded_in_mode_enforce(project, no_network):
    assert "No lock file pins" in refused(UnlockedArtifactError, project, lock=None)
    assert "No lock file pins" in refused(UnlockedArtifactError, project, lock=None, registry=HUB, document=policy())
    monitored = on_the_hub(policy(mode="monitor"))
    refused(UnlockedArtifactError, project, lock=None, document=monitored, mode="enforce")


def test_nothing_of_the_hub_is_loaded_without_trust(project, no_network):
    assert "no trust policy" in refused(SignatureError, project, trust=None)
    refused(SignatureError, project, trust=None, lock=None, mode="monitor")
    refused(SignatureError, project, trust=None, registry=HUB)


def test_a_signature_by_nobody_who_is_trusted_is_refused(project):
    project.trust.write_text(project.trust.read_text().replace(ACME.public.text, STRANGER.public.text))
    assert STRANGER.public.id in refused(SignatureError, project)


def test_a_stripped_signature_is_refused(project):
    for entry in project.pulled.entries():
        for path in project.pulled.attestations(entry):
            (project.pulled.folder(entry.digest) / path).unlink()
    assert "no attestation at all" in refused(SignatureError, project)


def test_what_was_not_pulled_asks_for_sync(project, monkeypatch, tmp_path, no_network):
    shutil.rmtree(project.pulled.root / "artifacts")
    assert "steerguard sync" in refused(ArtifactNotFoundError, project)


@pytest.mark.parametrize(
    "name", ["weights/vectors.safetensors", "manifest.json", "README.md", "weights/probe.safetensors"]
)
def test_a_store_that_was_poisoned_between_runs_is_refused(project, name):
    with wrapped(project):
        pass
    touched = 0
    for entry in project.pulled.entries():
        file = project.pulled.folder(entry.digest) / name
        if file.exists():
            content = bytearray(file.read_bytes())
            content[-2] ^= 1
            file.write_bytes(content)
            touched += 1
    assert touched
    refused(ArtifactIntegrityError, project)


def test_a_changed_policy_is_refused(project):
    changed = on_the_hub(policy(threshold=1.0))
    assert "not made for this text" in refused(LockMismatchError, project, document=changed)


def test_the_policy_of_a_request_must_be_locked_too(project):
    sink = MemorySink()
    with wrapped(project, sink) as model:
        stricter = on_the_hub(policy(threshold=-1.0, action="refuse"))
        with pytest.raises(LockMismatchError):
            model.generate(**prompts(1), max_new_tokens=2, policy=stricter)
        failed, rejected, error = [json.loads(line) for line in sink.lines[-3:]]
    assert (failed["type"], failed["ref"], failed["digest"]) == ("artifact.verify_failed", None, None)
    assert (rejected["type"], rejected["scope"], rejected["rejected"]["digest"]) == (
        "policy.reject",
        "request",
        stricter.digest,
    )
    assert (error["type"], error["stage"]) == ("guard.error", "load")
    assert {failed["code"], rejected["code"], error["code"]} == {"LockMismatchError"}


REFERENCES = {"harmful-intent": "harmful-intent/tiny@1.0.0", "inferaligner": "inferaligner/tiny@1.0.0"}


def _altered(project):
    for entry in project.pulled.entries():
        file = project.pulled.folder(entry.digest) / "manifest.json"
        file.write_bytes(file.read_bytes().replace(b"1.0.0", b"1.0.1"))


def _unsigned(project):
    for entry in project.pulled.entries():
        for path in project.pulled.attestations(entry):
            (project.pulled.folder(entry.digest) / path).unlink()


def _revoked(project):
    project.publish_list(revoked(family="inferaligner"))


def _stale(project):
    project.publish_list(sequence=3, age=timedelta(days=8))


@pytest.mark.parametrize(
    ("spoil", "kind", "families"),
    [
        (_altered, ArtifactIntegrityError, {"harmful-intent", "inferaligner"}),
        (_unsigned, SignatureError, {"harmful-intent", "inferaligner"}),
        (_revoked, RevokedError, {"inferaligner"}),
        (_stale, StaleError, set()),
    ],
)
def test_what_is_not_verified_is_recorded_by_reference_digest_and_class(project, spoil, kind, families):
    pinned = {f"{one.family}/{one.variant}@{one.version}": one.digest for one in read_lock(project.lock).artifacts}
    sink = MemorySink()
    spoil(project)
    refused(kind, project, sink=sink)
    _, failed, rejected, _ = [json.loads(line) for line in sink.lines]
    assert (failed["type"], failed["code"]) == ("artifact.verify_failed", kind.__name__)
    assert failed["ref"] in ({REFERENCES[family] for family in families} or {None})
    assert failed["digest"] == pinned.get(failed["ref"])
    assert (rejected["type"], rejected["scope"], rejected["code"]) == ("policy.reject", "guard", kind.__name__)
    assert rejected["rejected"]["digest"] == project.policy.digest
    assert (rejected["policy"], rejected["plan"]) == (None, None)


def test_what_only_is_not_there_was_not_unverified(project):
    sink = MemorySink()
    shutil.rmtree(project.pulled.root / "artifacts")
    refused(ArtifactNotFoundError, project, sink=sink)
    kinds = [json.loads(line)["type"] for line in sink.lines]
    assert kinds == ["log.open", "policy.reject", "log.close"]


def test_an_edited_lock_is_refused(project):
    project.lock.write_bytes(project.lock.read_bytes().replace(b"b" * 40, b"c" * 40))
    assert "was edited" in refused(LockFormatError, project)


def test_a_revoked_artifact_is_refused(project):
    project.publish_list(revoked(family="inferaligner"))
    assert "inferaligner/tiny" in refused(RevokedError, project)


def test_a_stale_list_is_refused(project):
    project.publish_list(sequence=3, age=timedelta(days=8))
    refused(StaleError, project)


def test_a_list_that_is_older_than_the_one_that_was_locked_with_is_refused(project):
    """Who may write to the store must not bring back the list of before a revocation."""
    lock = read_lock(project.lock)
    seen = [one.model_copy(update={"revocations_sequence": 2}) for one in lock.registries]
    newer = lockfile_of(lock.policies, seen, lock.artifacts)
    assert "sequence 2 or higher" in refused(RollbackError, project, lock=newer)
    project.publish_list(sequence=2)
    with wrapped(project, lock=newer):
        pass


def test_a_missing_list_is_refused(project):
    shutil.rmtree(project.pulled.root / "registries")
    assert "no list of revocations" in refused(StaleError, project)


@pytest.mark.parametrize(("name", "value"), [("trust", 3), ("trust", {}), ("lock", 3), ("lock", b"steerguard.lock")])
def test_arguments_of_another_type_are_refused_by_name(project, name, value):
    assert f"`{name}` has the wrong type" in refused(WrapError, project, **{name: value})


def test_a_broken_trust_policy_is_refused_with_its_place(project):
    project.trust.write_text(project.trust.read_text() + "embeded: judge\n")
    assert "field embeded" in refused(TrustPolicyError, project)


def test_a_local_registry_under_a_trust_policy_needs_signatures(project, tmp_path):
    local = create_registry(tmp_path / "local")
    source = registry_for(shared_model())
    for entry in source.entries():
        local.add(source.root / entry.family / entry.variant / entry.version)
    text = project.trust.read_text().replace(f'registries: ["{HUB}"]', f'registries: ["{HUB}", "file://{tmp_path}/*"]')
    project.trust.write_text(text)
    assert "no attestation at all" in refused(SignatureError, project, lock=None, registry=local, document=policy())
    attest_all(local, ACME)
    with wrapped(project, lock=None, registry=local, document=policy()):
        pass
    with wrapped(project, lock=None, registry=local.name, document=policy()):
        pass


def test_what_is_admitted_with_a_warning_is_logged(project, tmp_path):
    text = project.trust.read_text() + (
        "unsigned_local: {action: allow, reason: built here for tests, expires: 2999-12-31}\n"
    )
    project.trust.write_text(text)
    sink = MemorySink()
    with (
        structlog.testing.capture_logs() as logs,
        wrapped(project, sink, lock=None, registry=registry_for(shared_model()), document=policy()) as model,
    ):
        plan = model.guard.plan.digest
        written = [json.loads(line) for line in sink.lines]
    kinds = [record["type"] for record in written]
    assert kinds == ["log.open", *["artifact.load", "guard.bypass"] * 2, "policy.load"]
    bypasses = [record for record in written if record["type"] == "guard.bypass"]
    assert {(record["kind"], record["reason"], record["expires"], record["req"]) for record in bypasses} == {
        ("unsigned_artifact", "built here for tests", "2999-12-31", None)
    }
    assert {record["plan"] for record in bypasses} == {plan}
    told = [entry["warning"] for entry in logs if entry["event"] == "artifact_admitted_with_warning"]
    assert len(told) == 2
    assert all("built here for tests" in warning for warning in told)


def test_from_pretrained_hands_trust_and_lock_on(project, tmp_path, no_network):
    fresh_model().save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(UnlockedArtifactError):
        steerguard.from_pretrained(tmp_path / "model", project.policy, trust=project.trust, audit=tmp_path / "log")
    with pytest.raises(SignatureError):
        steerguard.from_pretrained(tmp_path / "model", project.policy, lock=project.lock, audit=tmp_path / "log")
