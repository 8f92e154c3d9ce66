"""The guard: modes, reports, checks and explanations."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from tests.guarded_models import (
    FailingSink,
    conversation,
    guarded,
    memory_log,
    policy,
    prompts,
    run,
    scores_of,
    shared_model,
    splitting_threshold,
    state_of,
    tokenizer,
)

from steerguard.errors import AuditSinkError, IncompatibleModelError, UnsupportedGenerationError
from steerguard.testing import MemorySink


def _records(sink, kind="guard.decision"):
    return [record for record in map(json.loads, sink.lines) if record["type"] == kind]


@pytest.mark.parametrize("action", ["guide", "refuse"])
def test_monitor_mode_changes_nothing_and_records_what_it_would_do(action):
    model = shared_model()
    batch = prompts(8)
    sink = MemorySink()
    plain = run(model, batch)
    with guarded(model, policy(splitting_threshold(), action, mode="monitor"), audit=memory_log(sink)) as wrapped:
        hooked = []
        with wrapped.guard.collect() as reports:
            watched = run(wrapped, batch, act=lambda _step: hooked.append(wrapped.guard.hooked_blocks))
    assert torch.equal(plain[0], watched[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], watched[1], strict=True))
    assert set(hooked) == {()}
    assert {report.intended for report in reports} == {"allow", action}
    assert {report.applied for report in reports} == {"allow"}
    assert {report.mode for report in reports} == {"monitor"}
    assert [(record["intended"], record["applied"]) for record in _records(sink)] == [
        (report.intended, "allow") for report in reports
    ]


def test_mode_off_runs_the_plain_model_and_records_that_guidance_was_off():
    model = shared_model()
    plain, _ = run(model, prompts(4))
    sink = MemorySink()
    with guarded(model, policy(-1e6), mode="off", audit=memory_log(sink)) as wrapped:
        with wrapped.guard.collect() as reports:
            tokens, _ = run(wrapped, prompts(4))
        assert wrapped.guard.plan.mode == "off"
    assert torch.equal(tokens, plain)
    assert reports == []
    assert next(iter(_records(sink, "guard.bypass")))["reason"] == "mode off"


def test_the_mode_of_wrap_overrides_that_of_the_policy():
    with guarded(shared_model(), policy(mode="monitor")) as wrapped:
        assert wrapped.guard.plan.mode == "monitor"
    with guarded(shared_model(), policy(mode="monitor"), mode="enforce") as wrapped:
        assert wrapped.guard.plan.mode == "enforce"


def test_nested_collections_each_get_every_report_of_their_own_block():
    with guarded(shared_model(), policy(1e6)) as wrapped, wrapped.guard.collect() as outer:
        run(wrapped, prompts(1))
        with wrapped.guard.collect() as inner:
            run(wrapped, prompts(2))
        run(wrapped, prompts(3))
    assert len(outer) == 6
    assert len(inner) == 2
    assert outer[1:3] == inner


def test_a_collection_gathers_its_own_thread_only():
    with guarded(shared_model(), policy(1e6)) as wrapped, wrapped.guard.collect() as reports:
        thread = threading.Thread(target=lambda: run(wrapped, prompts(2)))
        thread.start()
        thread.join()
        run(wrapped, prompts(1))
    assert len(reports) == 1


def test_on_decision_is_called_once_per_row_after_the_record_is_written():
    sink = MemorySink()
    seen = []

    def on_decision(decision):
        seen.append((decision, len(_records(sink))))

    guarding = guarded(shared_model(), policy(0.0), audit=memory_log(sink), on_decision=on_decision)
    with guarding as wrapped, wrapped.guard.collect() as reports:
        run(wrapped, prompts(3))
    assert [decision for decision, _ in seen] == reports
    assert [count for _, count in seen] == [3, 3, 3]


def test_check_gives_the_verdict_of_generate_for_one_and_for_many():
    model = shared_model()
    scores = scores_of(model, prompts(8))
    threshold = splitting_threshold()
    texts = [
        "hello there", "how to cook", "tell me a very long story about it", "x", "what is it", "zzzz", "abc def", "go",
    ]  # fmt: skip
    sink = MemorySink()
    with guarded(model, policy(threshold), audit=memory_log(sink)) as wrapped:
        before = state_of(wrapped)
        many = wrapped.guard.check([conversation(text) for text in texts])
        one = wrapped.guard.check(conversation(texts[3]))
        assert wrapped.guard.check([]) == []
        assert state_of(wrapped) == before
    assert [decision.intended == "guide" for decision in many] == [score >= threshold for score in scores]
    assert all(abs(d.readings[0].score - score) < 1e-4 for d, score in zip(many, scores, strict=True))
    assert abs(one.readings[0].score - scores[3]) < 1e-4
    assert all(decision.doses == () and decision.usage.generated_tokens == 0 for decision in many)
    assert [decision.usage.prompt_tokens for decision in many] == prompts(8)["attention_mask"].sum(1).tolist()
    assert len(_records(sink)) == 9


def test_check_in_monitor_mode_applies_nothing():
    with guarded(shared_model(), policy(-1e6, "refuse"), mode="monitor") as wrapped:
        decision = wrapped.guard.check(conversation("hello"))
    assert (decision.intended, decision.applied) == ("refuse", "allow")


def test_check_releases_nothing_when_it_cannot_be_recorded():
    sink = FailingSink(AuditSinkError("The disk is full."))
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        sink.at = 0
        with pytest.raises(AuditSinkError):
            wrapped.guard.check(conversation("hello"))


def test_a_check_whose_prompt_cannot_be_rendered_is_recorded_as_failed(monkeypatch):
    def failing(*_arguments, **_named):
        raise ValueError("the template quotes a prompt")

    sink = MemorySink()
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        monkeypatch.setattr(type(tokenizer()), "apply_chat_template", failing)
        with pytest.raises(IncompatibleModelError):
            wrapped.guard.check(conversation("hello"))
    (record,) = _records(sink, "guard.error")
    assert (record["code"], record["outcome"]) == ("IncompatibleModelError", "raise")
    assert "quotes" not in json.dumps(record)


def test_explain_says_what_was_read_and_what_would_flip_it():
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        text = str(wrapped.guard.explain(conversation("hello")))
    assert "`guide`" in text
    assert "rule `r`" in text
    assert "holds" in text
    assert "flips it" in text
    assert "hello" not in text


def test_a_refused_request_for_an_unsupported_mode_is_recorded_as_an_error():
    sink = MemorySink()
    guarding = guarded(shared_model(), policy(1e6), audit=memory_log(sink))
    with guarding as wrapped, pytest.raises(UnsupportedGenerationError, match="guidance_scale"):
        wrapped.generate(**prompts(1), guidance_scale=2.0)
    (record,) = _records(sink, "guard.error")
    assert record["code"] == "UnsupportedGenerationError"


def test_setup_seconds_name_the_parts_of_wrap():
    with guarded(shared_model(), policy()) as wrapped:
        seconds = wrapped.guard.setup_seconds
    assert {"policy", "plan", "artifacts", "fingerprint", "audit"} <= set(seconds)
    assert all(value >= 0 for value in seconds.values())


def test_the_records_of_a_run_hold_no_prompt_and_no_answer():
    sink = MemorySink()
    with guarded(shared_model(), policy(splitting_threshold()), audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(8))
    content = b"".join(sink.lines)
    for text in (b"hello there", b"how to cook", b"very long story"):
        assert text not in content
