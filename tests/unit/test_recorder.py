"""No record, no output: the log first, then reports, then callbacks."""

from __future__ import annotations

import json
import os

import pytest
from tests.guarded_models import (
    CONTENTS,
    FailingSink,
    guarded,
    memory_log,
    policy,
    prompts,
    run,
    shared_model,
    splitting_threshold,
    tokenizer,
)

from steerguard.audit.log import AuditLog
from steerguard.audit.privacy.keys import ContentKey
from steerguard.audit.privacy.sealed_slots import open_slot
from steerguard.audit.privacy.sealing import SealingKey
from steerguard.audit.records.fields import SealedContent
from steerguard.audit.verify import verify_directory
from steerguard.errors import AuditError, AuditKeyError, AuditSinkError, LooserPolicyError
from steerguard.testing import MemorySink


def _records(sink):
    return [json.loads(line) for line in sink.lines]


def test_every_row_has_one_record_that_equals_its_report():
    sink = MemorySink()
    with guarded(shared_model(), policy(splitting_threshold()), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(8))
        plan = wrapped.guard.plan
    records = [record for record in _records(sink) if record["type"] == "guard.decision"]
    assert len(records) == len(reports) == 8
    for record, report in zip(records, reports, strict=True):
        assert (record["req"], record["row"], record["mode"]) == (report.request, report.row, "enforce")
        assert (record["intended"], record["applied"], record["cause"]) == (
            report.intended,
            report.applied,
            report.cause,
        )
        assert tuple(record["rules"]) == report.rules
        assert [float(reading["score"]) for reading in record["readings"]] == [r.score for r in report.readings]
        assert [dose["positions"] for dose in record["doses"]] == [dose.positions for dose in report.doses]
        assert record["content"]["in_tokens"] == report.usage.prompt_tokens
        assert record["content"]["out_tokens"] == report.usage.generated_tokens
        assert record["plan"] == plan.digest
        assert record["policy"]["digest"] == plan.policy_digest
        assert record["budget"]["outcome"] == "within"


def test_a_row_whose_record_fails_keeps_the_whole_batch_back_and_calls_nobody():
    sink = FailingSink(AuditSinkError("The disk is full."))
    called = []
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink), on_decision=called.append) as wrapped:
        sink.at = 2
        with wrapped.guard.collect() as reports, pytest.raises(AuditSinkError):
            run(wrapped, prompts(3))
    assert reports == []
    assert called == []
    kinds = [record["type"] for record in _records(sink)]
    assert kinds.count("guard.decision") == 2
    assert kinds[-3:] == ["guard.decision", "guard.error", "guard.bypass"]
    assert "guard.request" not in kinds


def test_a_failed_request_names_its_error_and_no_text():
    sink = MemorySink()

    def boom(_step):
        raise LookupError("a secret text")

    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped, pytest.raises(LookupError):
        run(wrapped, prompts(2), act=boom)
    (record,) = [record for record in _records(sink) if record["type"] == "guard.error"]
    assert (record["code"], record["stage"], record["outcome"]) == ("LookupError", "generate", "raise")
    assert b"a secret text" not in sink.content


def test_content_is_tagged_with_the_logs_key_and_verifies(tmp_path):
    key = ContentKey(bytes(range(32)))
    log = AuditLog.open(tmp_path, key=key)
    with guarded(shared_model(), policy(1e6), audit=log) as wrapped:
        tokens, _ = run(wrapped, prompts(1))
    path = log.path
    log.close()
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    (record,) = [record for record in records if record["type"] == "guard.decision"]
    width = prompts(1)["input_ids"].shape[1]
    assert record["content"]["in"] == key.tag_tokens(prompts(1)["input_ids"][0].tolist())
    assert record["content"]["out"] == key.tag_tokens(tokens[0, width:].tolist())
    assert verify_directory(tmp_path, strict=True).status == "ok"


def test_a_log_that_encrypts_keeps_the_texts_of_a_row_for_who_has_the_key(tmp_path):
    key = SealingKey.create(tmp_path / "sealing.key")
    log = AuditLog.open(tmp_path / "audit", content="encrypted", sealing=key)
    document = policy(1e6, more="audit: {content: encrypted}")
    with guarded(shared_model(), document, audit=log) as wrapped:
        tokens, _ = run(wrapped, prompts(2))
    log.close()
    records = [
        json.loads(line) for path in (tmp_path / "audit").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    rows = [record for record in records if record["type"] == "guard.decision"]
    width = prompts(2)["input_ids"].shape[1]
    for row, record in enumerate(rows):
        assert record["content"]["in"] is record["content"]["out"] is None
        sealed = SealedContent.model_validate(record["content"]["sealed"])
        payload = json.loads(
            open_slot(tmp_path / "audit", sealed, key, log=record["log"], req=record["req"], row=record["row"])
        )
        answered = [token for token in tokens[row, width:].tolist() if token != 0]
        assert payload["answer"] == tokenizer().decode(answered, skip_special_tokens=True)
        assert payload["answer_tokens"][: len(answered)] == answered
        assert CONTENTS[row] in payload["prompt"]
    assert verify_directory(tmp_path / "audit", strict=True).status == "ok"


def test_a_policy_that_wants_content_encrypted_is_refused_by_a_log_that_does_not(tmp_path):
    document = policy(1e6, more="audit: {content: encrypted}")
    sink, other = MemorySink(), MemorySink()
    log = memory_log(sink)
    with pytest.raises(AuditKeyError, match="encrypted content"), guarded(shared_model(), document, audit=log):
        pass
    assert [(record["type"], record["code"]) for record in _records(sink)[1:]] == [("policy.reject", "AuditKeyError")]
    log.close()
    with guarded(shared_model(), policy(1e6), audit=memory_log(other)) as wrapped:
        with pytest.raises(LooserPolicyError, match="audit_content"):
            run(wrapped, prompts(1), policy=document)
        rejected, error = _records(other)[-2:]
    assert (rejected["type"], rejected["rejected"]["digest"]) == ("policy.reject", document.digest)
    assert (error["type"], error["stage"]) == ("guard.error", "load")


def test_another_log_must_keep_content_as_the_policy_says(tmp_path):
    key = SealingKey.create(tmp_path / "sealing.key")
    first = AuditLog.open(tmp_path / "audit", content="encrypted", sealing=key)
    second = MemorySink()
    with guarded(shared_model(), policy(1e6, more="audit: {content: encrypted}"), audit=first) as wrapped:
        with pytest.raises(AuditKeyError):
            wrapped.guard.use_audit(memory_log(second))
        run(wrapped, prompts(1))
    first.close()
    assert [record["type"] for record in _records(second)] == ["log.open", "log.close"]


def test_a_redactor_sees_the_texts_of_a_row_and_one_that_fails_keeps_the_answer_back():
    seen = []

    def redactor(text):
        seen.append(text)
        if len(seen) > 2:
            raise LookupError(text)
        return "redacted"

    sink, key = MemorySink(), ContentKey(bytes(range(32)))
    log = AuditLog.open(sink=sink, key=key, redactors=[redactor])
    with guarded(shared_model(), policy(1e6), audit=log) as wrapped:
        run(wrapped, prompts(1))
        with pytest.raises(AuditError) as caught:
            run(wrapped, prompts(1))
    log.close()
    assert CONTENTS[0] in seen[0]
    (record,) = [record for record in _records(sink) if record["type"] == "guard.decision"]
    assert record["content"]["in"] == record["content"]["out"] == key.tag_text("redacted")
    assert CONTENTS[0] not in str(caught.value)
    assert CONTENTS[0].encode() not in sink.content


def test_the_log_of_a_forked_child_says_what_is_in_force(tmp_path):
    """The parent's records are in another log, which may be gone when the child's is read."""
    log = AuditLog.open(tmp_path, content="none")
    with guarded(shared_model(), policy(-1e6), audit=log) as wrapped:
        run(wrapped, prompts(1), max_new_tokens=2)
        parent = wrapped.guard.audit.log_id
        child = os.fork()
        if child == 0:
            code = 1
            try:
                wrapped.guard.check([{"role": "user", "content": "hello"}])
                wrapped.guard.audit.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        wrapped.guard.check([{"role": "user", "content": "hello"}])
    log.close()
    written = {}
    for path in tmp_path.glob("*.jsonl"):
        written[path.name.partition(".")[0]] = [json.loads(line)["type"] for line in path.read_text().splitlines()]
    own = written.pop(parent)
    (childs,) = written.values()
    assert own.count("policy.load") == 1
    assert childs[:6] == [
        "log.open", "artifact.load", "artifact.load", "policy.load", "guard.decision", "guard.request",
    ]  # fmt: skip
