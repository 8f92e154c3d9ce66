"""What a policy says of content, and what the log then holds."""

from __future__ import annotations

import pytest
from tests.guarded_models import ALWAYS, conversation, guarded, policy, prompts, shared_model

import steerguard
from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.privacy.sealing import SEALING_VARIABLE, SealingKey
from steerguard.audit.upkeep.unsealing import unsealed_rows
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditKeyError, LooserPolicyError, NotWrappedError

SEALING = SealingKey.of_secret(bytes(range(32)))


def document(content):
    return policy(rules=ALWAYS, more=f"audit: {{content: {content}}}")


def opened(directory, content):
    key = ContentKey(bytes(32)) if content == "hmac" else None
    return AuditLog.open(directory, content=content, key=key, sealing=SEALING if content == "encrypted" else None)


def contents(directory):
    """What the decisions hold of content, after strict verification."""
    found = []

    def take(record):
        if record["type"] == "guard.decision":
            found.append(record["content"])

    assert verify_directory(directory, strict=True, on_record=take).status == "ok"
    return found


def unwrapped(model):
    with pytest.raises(NotWrappedError):
        steerguard.unwrap(model)


@pytest.fixture(autouse=True)
def no_key_around(monkeypatch):
    monkeypatch.delenv(SEALING_VARIABLE, raising=False)


def test_encrypted_content_of_a_request_can_be_read_with_the_key(tmp_path):
    with opened(tmp_path, "encrypted") as log, guarded(shared_model(), document("encrypted"), audit=log) as wrapped:
        decision = wrapped.guard.check(conversation("hello there"))
    (content,) = contents(tmp_path)
    assert (content["in"], content["out"], content["sealed"]["key"]) == (None, None, SEALING.id)
    (row,) = unsealed_rows(tmp_path, decision.request, SEALING)
    assert row.content is not None
    assert "hello there" in row.content["prompt"]


def test_a_log_that_wrap_opens_takes_the_key_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(SEALING_VARIABLE, bytes(range(32)).hex())
    with guarded(shared_model(), document("encrypted"), audit=tmp_path) as wrapped:
        wrapped.guard.check(conversation("hello there"))
        log = wrapped.guard.audit
    log.close()
    (content,) = contents(tmp_path)
    assert content["sealed"]["key"] == SEALING.id


def test_without_a_key_a_model_is_not_wrapped_for_encrypted_content(tmp_path):
    model = shared_model()
    with pytest.raises(AuditKeyError, match=SEALING_VARIABLE), guarded(model, document("encrypted"), audit=tmp_path):
        pass
    unwrapped(model)


@pytest.mark.parametrize(("log", "wanted"), [("hmac", "encrypted"), ("none", "encrypted"), ("encrypted", "hmac")])
def test_a_log_that_cannot_keep_what_the_policy_says_is_refused(tmp_path, log, wanted):
    model = shared_model()
    with opened(tmp_path, log) as audit:
        with pytest.raises(AuditKeyError, match=r"audit\.content"), guarded(model, document(wanted), audit=audit):
            pass
        unwrapped(model)


@pytest.mark.parametrize("log", ["none", "hmac", "encrypted"])
def test_a_policy_that_says_none_is_kept_in_every_log(tmp_path, log):
    with opened(tmp_path, log) as audit, guarded(shared_model(), document("none"), audit=audit) as wrapped:
        wrapped.guard.check(conversation("hello there"))
    (content,) = contents(tmp_path)
    assert (content["in"], content["out"], content["sealed"]) == (None, None, None)
    assert not list(tmp_path.glob("*.sealed"))


def test_another_log_must_keep_what_the_policy_says_too(tmp_path):
    with (
        opened(tmp_path, "encrypted") as log,
        opened(tmp_path, "hmac") as other,
        guarded(shared_model(), document("encrypted"), audit=log) as wrapped,
    ):
        with pytest.raises(AuditKeyError, match=r"audit\.content"):
            wrapped.guard.use_audit(other)
        wrapped.guard.check(conversation("hello there"))
    assert [content["sealed"]["key"] for content in contents(tmp_path)] == [SEALING.id]


@pytest.mark.parametrize(("in_force", "asked"), [("hmac", "none"), ("none", "hmac"), ("encrypted", "none")])
def test_a_request_cannot_ask_for_other_content_than_the_policy_in_force(tmp_path, in_force, asked):
    with (
        opened(tmp_path, in_force) as log,
        guarded(shared_model(), document(in_force), audit=log) as wrapped,
        pytest.raises(LooserPolicyError),
    ):
        wrapped.generate(**prompts(1), policy=document(asked), max_new_tokens=2, do_sample=False)
