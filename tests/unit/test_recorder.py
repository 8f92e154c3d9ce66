"""No record, no output: the log first, then reports, then callbacks."""

from __future__ import annotations

import json

import pytest
from tests.guarded_models import (
    FailingSink,
    guarded,
    memory_log,
    policy,
    prompts,
    run,
    shared_model,
    splitting_threshold,
)

from steerguard.audit.verify import verify_log
from steerguard.errors import AuditSinkError
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
    from steerguard.audit.keys import ContentKey
    from steerguard.audit.log import AuditLog

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
    verify_log(path)
