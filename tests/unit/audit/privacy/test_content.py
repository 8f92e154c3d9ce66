from __future__ import annotations

import json
import traceback

import pytest

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.content import require_content, row_content, text_content, token_content
from steerguard.audit.privacy.sealed_slots import open_slot
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.errors import AuditError, AuditKeyError, AuditSinkError

SEALING = SealingKey.of_secret(bytes(range(32)))
PROMPT, ANSWER = [72, 105, 33], [79, 75]
SECRET = "a text that nobody may see"


def decode(tokens):
    return "".join(map(chr, tokens))


@pytest.fixture
def opened(tmp_path, key):
    """Open a log of a content mode."""
    logs = []

    def make(content, **settings):
        given = {"hmac": {"key": key}, "encrypted": {"sealing": SEALING}}.get(content, {})
        logs.append(AuditLog.open(tmp_path / "audit", content=content, **given, **settings))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def _unsealed(tmp_path, log, content, *, req="request-1", row=0):
    return json.loads(open_slot(tmp_path / "audit", content.sealed, SEALING, log=log.log_id, req=req, row=row))


def test_content_tags_are_equal_only_for_equal_content(key):
    content = token_content(key, [1, 2], [1, 2])
    assert content.prompt == content.answer != token_content(key, [1, 2, 3], None).prompt
    assert content.prompt.startswith(f"hmac:{key.id}:")


def test_without_a_key_only_sizes_are_kept():
    assert token_content(None, [7, 8], [9]).model_dump() == {
        "form": "tokens",
        "in": None,
        "out": None,
        "in_chars": None,
        "out_chars": None,
        "in_tokens": 2,
        "out_tokens": 1,
        "sealed": None,
    }


def test_text_content_hashes_text_and_counts_characters(key):
    content = text_content(key, "prompt é", None)
    assert content.prompt == key.tag("prompt é".encode())
    assert (content.in_chars, content.out_chars, content.answer) == (8, None, None)


def test_mode_none_keeps_sizes_and_asks_no_redactor(opened):
    def failing(_text):
        raise AssertionError

    log = opened("none", redactors=(failing,))
    assert row_content(log, "request-1", 0, PROMPT, ANSWER, text=None) == token_content(None, PROMPT, ANSWER)


def test_mode_hmac_tags_token_ids(opened, key):
    log = opened("hmac")
    assert row_content(log, "request-1", 0, PROMPT, ANSWER, text=None) == token_content(key, PROMPT, ANSWER)
    assert row_content(log, "request-1", 0, PROMPT, None, text=decode) == token_content(key, PROMPT, None)


def test_with_redactors_mode_hmac_tags_what_they_leave(opened, key):
    log = opened("hmac", redactors=(str.upper, lambda text: text.replace("HI", "-")))
    assert row_content(log, "request-1", 0, PROMPT, ANSWER, text=decode) == text_content(key, "-!", "OK")
    assert row_content(log, "request-1", 0, PROMPT, None, text=decode) == text_content(key, "-!", None)


def test_an_empty_answer_is_not_a_missing_one(opened, key):
    log = opened("hmac", redactors=(str.upper,))
    assert row_content(log, "request-1", 0, PROMPT, [], text=decode) == text_content(key, "HI!", "")


def test_redactors_need_the_text(opened):
    with pytest.raises(AuditError, match="decodes"):
        row_content(opened("hmac", redactors=(str.upper,)), "request-1", 0, PROMPT, ANSWER, text=None)


def test_mode_encrypted_seals_texts_and_token_ids(tmp_path, opened):
    log = opened("encrypted")
    content = row_content(log, "request-1", 0, PROMPT, ANSWER, text=decode)
    assert (content.prompt, content.answer, content.in_tokens, content.out_tokens) == (None, None, 3, 2)
    assert _unsealed(tmp_path, log, content) == {
        "prompt": "Hi!",
        "answer": "OK",
        "prompt_tokens": PROMPT,
        "answer_tokens": ANSWER,
    }
    without = row_content(log, "request-1", 1, PROMPT, None, text=None)
    assert _unsealed(tmp_path, log, without, row=1) == {
        "prompt": None,
        "answer": None,
        "prompt_tokens": PROMPT,
        "answer_tokens": None,
    }


def test_with_redactors_mode_encrypted_seals_what_they_leave_and_no_token_ids(tmp_path, opened):
    log = opened("encrypted", redactors=(lambda text: text.replace("Hi", "-"),))
    content = row_content(log, "request-1", 0, PROMPT, ANSWER, text=decode)
    assert _unsealed(tmp_path, log, content) == {
        "prompt": "-!",
        "answer": "OK",
        "prompt_tokens": None,
        "answer_tokens": None,
    }
    assert (content.form, content.in_chars, content.out_chars) == ("text", 2, 2)


def test_text_that_is_no_unicode_is_sealed_all_the_same(tmp_path, opened):
    log = opened("encrypted")
    content = row_content(log, "request-1", 0, PROMPT, None, text=lambda _: "\ud800")
    assert _unsealed(tmp_path, log, content)["prompt"] == "\ud800"


@pytest.mark.parametrize("mode", ["hmac", "encrypted"])
@pytest.mark.parametrize("tokens", [[-1], [2**32]])
def test_a_token_id_out_of_range_is_refused(opened, mode, tokens):
    with pytest.raises(AuditError, match="token id"):
        row_content(opened(mode), "request-1", 0, tokens, None, text=None)


class _QuotingError(Exception):
    def __init__(self):
        super().__init__(SECRET)
        self.add_note(SECRET)


def _raising(_given):
    raise _QuotingError


@pytest.mark.parametrize("mode", ["hmac", "encrypted"])
@pytest.mark.parametrize(
    ("redactors", "text", "who"),
    [((str.upper, _raising), lambda _: SECRET, "redactor 2"), ((str.upper,), _raising, "the tokenizer")],
)
def test_what_fails_is_named_and_nothing_of_the_text_is_told(opened, mode, redactors, text, who):
    log = opened(mode, redactors=redactors)
    with pytest.raises(AuditError, match=who) as caught:
        row_content(log, "request-1", 0, PROMPT, None, text=text)
    told = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "_QuotingError" in told
    assert SECRET not in told
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("name", [SECRET, SECRET.replace(" ", "_")])
def test_a_class_name_that_no_code_states_is_not_told(opened, name):
    def raising(_text):
        raise type(name, (Exception,), {})

    with pytest.raises(AuditError) as caught:
        row_content(opened("hmac", redactors=(raising,)), "request-1", 0, PROMPT, None, text=decode)
    assert name not in str(caught.value)


class _QuotingText(str):
    __slots__ = ()

    def encode(self, *_arguments):
        raise ValueError(SECRET)


def test_a_text_of_a_class_of_its_own_is_taken_by_its_characters(opened, key):
    log = opened("hmac", redactors=(lambda _: _QuotingText("left"),))
    content = row_content(log, "request-1", 0, PROMPT, None, text=decode)
    assert content.prompt == key.tag_text("left")


@pytest.mark.parametrize("result", [None, b"bytes", 3])
def test_a_redactor_must_return_text(opened, result):
    log = opened("hmac", redactors=(lambda _: result,))
    with pytest.raises(AuditError, match=type(result).__name__):
        row_content(log, "request-1", 0, PROMPT, None, text=decode)


def test_an_interrupt_in_a_redactor_passes_through(opened):
    def interrupted(_text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        row_content(opened("hmac", redactors=(interrupted,)), "request-1", 0, PROMPT, None, text=decode)


@pytest.mark.parametrize(
    ("log", "policy", "kept"),
    [
        ("none", "none", "none"),
        ("none", "hmac", "none"),
        ("hmac", "none", "none"),
        ("hmac", "hmac", "hmac"),
        ("encrypted", "none", "none"),
        ("encrypted", "encrypted", "encrypted"),
    ],
)
def test_the_narrower_of_log_and_policy_is_kept(opened, log, policy, kept):
    assert require_content(opened(log), policy) == kept


@pytest.mark.parametrize(("log", "policy"), [("none", "encrypted"), ("hmac", "encrypted"), ("encrypted", "hmac")])
def test_what_a_log_cannot_keep_as_the_policy_says_is_an_error(opened, log, policy):
    with pytest.raises(AuditKeyError, match=r"AuditLog\.open"):
        require_content(opened(log), policy)


def test_a_narrower_policy_narrows_a_row(opened):
    log = opened("encrypted")
    assert row_content(log, "request-1", 0, PROMPT, ANSWER, text=decode, mode="none") == token_content(
        None, PROMPT, ANSWER
    )


def test_content_that_cannot_be_sealed_is_an_error(tmp_path, opened):
    log = opened("encrypted")
    (tmp_path / "audit" / f"{log.log_id}.000000.sealed").write_bytes(b"not this log's")
    with pytest.raises(AuditSinkError):
        row_content(log, "request-1", 0, PROMPT, ANSWER, text=decode)
