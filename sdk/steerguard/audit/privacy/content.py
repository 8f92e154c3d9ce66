"""What is recorded of a row's prompt and answer: sizes, keyed hashes, or the encrypted text; never the plain text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from steerguard.audit.privacy.keys import ContentKey, token_bytes
from steerguard.audit.records.fields import ContentMode, RecordedContent, class_name
from steerguard.errors import AuditError, AuditKeyError

if TYPE_CHECKING:
    from steerguard.audit.log import AuditLog

Redactor = Callable[[str], str]
"""Takes a text and returns it without what must not be kept; it runs before anything is hashed or encrypted."""
Text = Callable[[Sequence[int]], str]
"""Decodes token ids."""

_BREADTH: Final = {"none": 0, "hmac": 1, "encrypted": 2}
_Given = TypeVar("_Given")


def require_content(log: AuditLog, policy: ContentMode) -> ContentMode:
    """Return what may be recorded of content under a policy in a log: the narrower of what both allow.

    A policy that says `none` is kept in every log. A log that was opened with `none` keeps sizes only, under a policy
    that says `hmac` too. What a policy asks to be encrypted needs a log that encrypts.

    Raises:
        AuditKeyError: the policy asks for encrypted content and the log does not encrypt, or the policy asks for
            keyed hashes and the log encrypts instead.
    """
    if policy == "encrypted" and log.content != "encrypted":
        raise AuditKeyError(
            "The policy asks for encrypted content, and the audit log does not encrypt.",
            where="audit.content",
            expected="a log opened with content='encrypted' and a sealing key",
            found=f"a log opened with content={log.content!r}",
            next_step="AuditLog.open(..., content='encrypted', sealing=SealingKey.from_file(path)).",
        )
    mode = min(log.content, policy, key=_BREADTH.__getitem__)
    if mode == "hmac" and log.key is None:
        raise AuditKeyError(
            "The policy asks for keyed hashes, and the audit log has no key for them.",
            where="audit.content",
            found=f"a log opened with content={log.content!r}",
            next_step="Open the log with AuditLog.open(..., content='hmac'), or state what it keeps in the policy.",
        )
    return mode


def row_content(
    log: AuditLog,
    request: str,
    row: int,
    prompt: Sequence[int],
    answer: Sequence[int] | None,
    *,
    text: Text | None,
    mode: ContentMode | None = None,
) -> RecordedContent:
    """Describe the content of one row as the log keeps it; encrypted content is written when this returns.

    Args:
        log: the log that the record of the row goes to.
        request: id of the request.
        row: from 0.
        prompt: token ids, without padding.
        answer: token ids, without padding; None where there is no answer yet.
        text: decodes token ids; needed where the log has redactors.
        mode: what `require_content` returned; by default that of the log.

    Raises:
        AuditSinkError: encrypted content could not be written.
        AuditKeyError: there is no key, or the key service failed.
        AuditError: a token id is out of range, or the tokenizer or a redactor failed. The message names the class of
            what was raised and nothing else: its text may quote the prompt.
    """
    kept = mode or log.content
    if kept == "none":
        return token_content(None, prompt, answer)
    texts = _texts(log.redactors, prompt, answer, text) if log.redactors or kept == "encrypted" else None
    if kept == "encrypted":
        return _sealed(log, request, row, prompt, answer, texts)
    if log.key is None:
        raise AuditKeyError("There is no key for hashing content.", where="audit.content", expected="a log with a key")
    return token_content(log.key, prompt, answer) if texts is None else text_content(log.key, *texts)


def token_content(key: ContentKey | None, prompt: Sequence[int], answer: Sequence[int] | None) -> RecordedContent:
    """Describe one row by its token ids, without padding; with `key` None only sizes are kept.

    Raises:
        AuditError: an id is not an integer from 0 to 2^32 - 1.
    """
    return RecordedContent.model_validate(
        {
            "form": "tokens",
            "in": None if key is None else key.tag_tokens(prompt),
            "out": None if key is None or answer is None else key.tag_tokens(answer),
            "in_chars": None,
            "out_chars": None,
            "in_tokens": len(prompt),
            "out_tokens": None if answer is None else len(answer),
        }
    )


def text_content(key: ContentKey | None, prompt: str, answer: str | None) -> RecordedContent:
    """Describe one row by its texts; with `key` None only sizes are kept."""
    return RecordedContent.model_validate(
        {
            "form": "text",
            "in": None if key is None else key.tag_text(prompt),
            "out": None if key is None or answer is None else key.tag_text(answer),
            "in_chars": len(prompt),
            "out_chars": None if answer is None else len(answer),
            "in_tokens": None,
            "out_tokens": None,
        }
    )


def _sealed(
    log: AuditLog,
    request: str,
    row: int,
    prompt: Sequence[int],
    answer: Sequence[int] | None,
    texts: tuple[str, str | None] | None,
) -> RecordedContent:
    """Write the content encrypted. Token ids spell the text, so they are kept only where nothing is redacted."""
    redacted = bool(log.redactors)
    payload: dict[str, object] = dict(zip(("prompt", "answer"), texts or (None, None), strict=True))
    payload["prompt_tokens"] = None if redacted else [int(token) for token in prompt]
    payload["answer_tokens"] = None if redacted or answer is None else [int(token) for token in answer]
    token_bytes(prompt)
    token_bytes(answer or ())
    sizes = token_content(None, prompt, answer) if not redacted or texts is None else text_content(None, *texts)
    sealed = log.seal(json.dumps(payload, separators=(",", ":")).encode("ascii"), req=request, row=row)
    return sizes.model_copy(update={"sealed": sealed})


def _texts(
    redactors: Sequence[Redactor], prompt: Sequence[int], answer: Sequence[int] | None, text: Text | None
) -> tuple[str, str | None] | None:
    if text is None:
        if not redactors:
            return None
        raise AuditError(
            "Redacting content needs a tokenizer that decodes.",
            where="redactors of the audit log",
            next_step="Pass text= to row_content, or open the log without redactors.",
        )
    found = [None if tokens is None else _called("the tokenizer", text, tokens) for tokens in (prompt, answer)]
    for number, redactor in enumerate(redactors, start=1):
        found = [None if one is None else _called(f"redactor {number}", redactor, one) for one in found]
    return found[0] or "", found[1]


def _called(who: str, function: Callable[[_Given], str], given: _Given) -> str:
    """Call foreign code with content; of what it raises only the name of the class is kept."""
    failure: str | None = None
    result: object = None
    try:
        result = function(given)
    except Exception as error:  # noqa: BLE001 - foreign code can raise anything; told by name and refused
        failure = class_name(error, "an error")
    # Raised outside of the handler, so that the error carries no trace of the first one.
    if failure is None and isinstance(result, str):
        # A class of its own could answer in another way, or raise, where the text is used.
        return str.__str__(result)
    raise AuditError(
        f"Content could not be prepared for the audit log: {who} failed.",
        where=who,
        expected="a text",
        found=failure or class_name(result, "something else"),
        next_step="Nothing of the row was recorded or released; correct what failed.",
    )
