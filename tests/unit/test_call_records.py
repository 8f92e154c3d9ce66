"""`guard.request`, `guard.error` and the bypass of a passthrough: what a call says of itself as a whole."""

from __future__ import annotations

import json
import time

import pytest
from tests.cached_turns import AT_THE_END, NEVER, kept, next_turn
from tests.guarded_models import (
    FailingSink,
    conversation,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    splitting_threshold,
)
from tests.searched_models import sampled, search_policy, searched, with_judge

from steerguard.errors import (
    AuditSinkError,
    CostModelError,
    LooserPolicyError,
    NonFiniteHiddenStateError,
    PolicyNotFoundError,
    UnsupportedGenerationError,
)
from steerguard.testing import MemorySink

FULL = AuditSinkError("The disk is full.")


class Keeper:
    """A streamer that keeps what it gets; the prompt comes first."""

    def __init__(self, act=None):
        self.values = []
        self.ends = 0
        self._act = act or (lambda _count: None)

    def put(self, value):
        self._act(len(self.values))
        self.values.append(value)

    def end(self):
        self.ends += 1


def _records(sink, kind=None):
    return [record for record in map(json.loads, sink.lines) if kind in (None, record["type"])]


def _of_calls(sink):
    """What came behind the policy."""
    records = _records(sink)
    return records[[record["type"] for record in records].index("policy.load") + 1 :]


def test_a_call_is_summed_up_behind_its_decisions_and_under_their_id():
    sink = MemorySink()
    with guarded(shared_model(), policy(splitting_threshold()), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.collect() as reports:
            run(wrapped, prompts(8))
        plan = wrapped.guard.plan
        kinds = [record["type"] for record in _of_calls(sink)]
    (found,) = _records(sink, "guard.request")
    assert kinds == ["guard.decision"] * 8 + ["guard.request"]
    assert {found["req"]} == {report.request for report in reports}
    assert (found["call"], found["rows"], found["mode"]) == ("generate", 8, "enforce")
    assert (found["plan"], found["policy"]["digest"]) == (plan.digest, plan.policy_digest)
    guided = sum(report.applied == "guide" for report in reports)
    assert 0 < guided < 8
    assert found["intended"] == found["applied"] == {"allow": 8 - guided, "annotate": 0, "guide": guided, "refuse": 0}
    for name in ("prompt_tokens", "generated_tokens", "extra_forward_tokens", "cached_tokens"):
        assert found["usage"][name] == sum(getattr(report.usage, name) for report in reports)


def test_a_refused_call_and_a_monitored_one_are_summed_up_too():
    sink = MemorySink()
    for mode in ("enforce", "monitor"):
        with guarded(shared_model(), policy(-1e6, "refuse"), mode=mode, audit=memory_log(sink)) as wrapped:
            run(wrapped, prompts(3))
    found = _records(sink, "guard.request")
    assert [(one["mode"], one["intended"]["refuse"], one["applied"]["refuse"]) for one in found] == [
        ("enforce", 3, 3),
        ("monitor", 3, 0),
    ]
    assert found[1]["applied"]["allow"] == 3


def test_a_check_is_one_call_and_all_its_time_is_the_guards():
    sink = MemorySink()
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        found = wrapped.guard.check([conversation("hello"), conversation("go")])
    (request,) = _records(sink, "guard.request")
    assert (request["call"], request["rows"], request["req"]) == ("check", 2, found[0].request)
    assert request["guard_us"] == request["duration_us"] > 0


def test_every_pass_of_scoring_is_a_call():
    sink = MemorySink()
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped, wrapped.guard.forward() as scoring:
        wrapped(**prompts(2))
        wrapped(**prompts(3))
    found = _records(sink, "guard.request")
    assert [(one["call"], one["rows"], one["req"]) for one in found] == [
        ("forward", 2, scoring.decisions[0][0].request),
        ("forward", 3, scoring.decisions[1][0].request),
    ]
    assert all(0 < one["guard_us"] < one["duration_us"] for one in found)


def test_the_time_of_the_loop_is_not_the_guards():
    sink = MemorySink()
    with guarded(shared_model(), policy(1e6), audit=memory_log(sink)) as wrapped:
        start = time.monotonic_ns()
        run(wrapped, prompts(1), act=lambda _step: time.sleep(0.02), max_new_tokens=6, min_new_tokens=6)
        took = (time.monotonic_ns() - start) // 1000
    (found,) = _records(sink, "guard.request")
    assert 120_000 <= found["duration_us"] <= took
    assert 0 < found["guard_us"] <= found["duration_us"] - 120_000


def test_the_passes_before_the_prefill_and_the_searches_are_the_guards(monkeypatch):
    from steerguard.engine import sampling

    sink, original = MemorySink(), sampling.probe

    def slow(*arguments):
        time.sleep(0.05)
        return original(*arguments)

    monkeypatch.setattr(sampling, "probe", slow)
    with guarded(shared_model(), policy(1e6), audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(1))
    (found,) = _records(sink, "guard.request")
    assert found["guard_us"] >= 50_000


def test_tokens_that_came_from_a_cache_are_recorded_by_row_and_in_sum():
    sink, batch, cache = MemorySink(), prompts(2), kept(shared_model())
    guarding = guarded(shared_model(), policy(NEVER, settings=AT_THE_END), audit=memory_log(sink))
    with guarding as wrapped, wrapped.guard.collect() as reports:
        tokens, _ = run(wrapped, batch, past_key_values=cache, max_new_tokens=3, min_new_tokens=3)
        run(wrapped, next_turn(batch, tokens), past_key_values=cache, max_new_tokens=2)
    last = [report.usage.cached_tokens for report in reports[2:]]
    assert min(last) > 0
    assert [one["usage"]["cached_tokens"] for one in _records(sink, "guard.decision")] == [0, 0, *last]
    assert [one["usage"]["cached_tokens"] for one in _records(sink, "guard.request")] == [0, sum(last)]


def test_without_guidance_there_is_a_bypass_and_no_request():
    sink = MemorySink()
    with guarded(shared_model(), policy(0.0), mode="off", audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(1))
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped, wrapped.guard.unguided("a test"):
        run(wrapped, prompts(1))
    assert _records(sink, "guard.request") == _records(sink, "guard.decision") == []


def _boom(_step):
    raise LookupError("a secret text")


class _Judge:
    """Fails at every answer, as foreign code can."""

    def __init__(self, blocks):
        self.blocks = blocks

    def cost(self, _inputs):
        raise KeyboardInterrupt


def test_a_failed_call_says_how_far_it_had_come_under_an_id_of_its_own():
    sink = MemorySink()
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        run(wrapped, prompts(1), max_new_tokens=2)
        with pytest.raises(LookupError):
            run(wrapped, prompts(2), act=_boom)
        with pytest.raises(UnsupportedGenerationError):
            wrapped.generate(**prompts(1), guidance_scale=2.0)
        with pytest.raises(PolicyNotFoundError):
            run(wrapped, prompts(1), policy="no-such-policy")
    errors = _records(sink, "guard.error")
    assert [(one["code"], one["stage"], one["row"]) for one in errors] == [
        ("LookupError", "generate", None),
        ("UnsupportedGenerationError", "prompt", None),
        ("PolicyNotFoundError", "load", None),
    ]
    (request,) = _records(sink, "guard.request")
    assert len({request["req"], *(one["req"] for one in errors)}) == 4
    assert b"a secret text" not in sink.content


def test_what_fails_while_the_prompt_is_read_fails_at_detection():
    sink = MemorySink()

    def fail(*_arguments):
        raise LookupError

    with guarded(fresh_model(), policy(), registry=registry_for(shared_model()), audit=memory_log(sink)) as wrapped:
        handle = wrapped.get_decoder().layers[0].register_forward_hook(fail)
        with pytest.raises(LookupError):
            run(wrapped, prompts(2))
        with pytest.raises(LookupError):
            wrapped.guard.check(conversation("hello"))
        with pytest.raises(LookupError), wrapped.guard.forward():
            wrapped(**prompts(2))
        handle.remove()
    assert [one["stage"] for one in _records(sink, "guard.error")] == ["detect"] * 3


def test_what_fails_in_a_search_names_its_row():
    sink, model = MemorySink(), shared_model()
    registry_for(model)
    with searched(model, search_policy(start="always"), audit=memory_log(sink)) as (wrapped, reports):
        with_judge(wrapped, _Judge(wrapped.guard.engine.program.searches[0].cost.blocks))
        with pytest.raises(KeyboardInterrupt):
            sampled(wrapped, prompts(2))
    (error,) = _records(sink, "guard.error")
    assert (error["code"], error["stage"], error["row"]) == ("KeyboardInterrupt", "guide", 0)
    assert reports == []


@pytest.mark.parametrize(
    ("error", "stage"),
    [
        (FULL, "audit"),
        (LooserPolicyError("x"), "load"),
        (CostModelError("x"), "guide"),
        (NonFiniteHiddenStateError("x"), "detect"),
        (ValueError("x"), "detect"),
    ],
)
def test_the_class_of_an_error_comes_before_how_far_the_call_had_come(error, stage):
    from steerguard.audit.records.fields import ModelReference, PolicyReference
    from steerguard.audit.records.record import DecisionContext
    from steerguard.call_records import failure_event
    from steerguard.engine.call_trace import CallTrace

    trace = CallTrace("check")
    trace.stage = "detect"
    digest = "sha256:" + "0" * 64
    context = DecisionContext(
        policy=PolicyReference(name="p", version="1", digest=digest),
        plan=digest,
        model=ModelReference(name="", architecture="A", dtype="float32"),
        artifacts=(),
    )
    event = failure_event(error, trace, context)
    assert (event.stage, event.req, event.outcome) == (stage, trace.request, "raise")


def _streaming(strategy, action="guide", threshold=-1e6):
    return policy(threshold, action, more=f"streaming: {{strategy: {strategy}}}")


def _stream(wrapped, keeper, rows=1, **settings):
    return wrapped.generate(**prompts(rows), streamer=keeper, max_new_tokens=8, do_sample=False, **settings)


def test_a_passthrough_is_recorded_as_a_bypass_once_and_before_text_leaves():
    sink, at_first = FailingSink(FULL), []

    def act(count):
        if count == 1:
            at_first.extend(_records(sink))

    with guarded(shared_model(), _streaming("unsafe_passthrough"), audit=memory_log(sink)) as wrapped:
        _stream(wrapped, Keeper(act))
        (bypass,) = _records(sink, "guard.bypass")
        assert bypass in at_first
        assert (bypass["kind"], bypass["expires"]) == ("unsafe_passthrough", None)
        assert bypass["req"] == _records(sink, "guard.request")[0]["req"]
        sink.at, keeper = 0, Keeper()
        with pytest.raises(AuditSinkError):
            _stream(wrapped, keeper)
        assert (keeper.values, keeper.ends) == ([], 1)
        run(wrapped, prompts(1))
        assert len(_records(sink, "guard.bypass")) == 1


@pytest.mark.parametrize("strategy", ["buffer", "window"])
def test_other_strategies_are_no_bypass(strategy):
    sink = MemorySink()
    with guarded(shared_model(), _streaming(strategy), audit=memory_log(sink)) as wrapped:
        _stream(wrapped, Keeper())
        assert _records(sink, "guard.bypass") == []
    assert [one["type"] for one in _records(sink)].count("guard.request") == 1


@pytest.mark.parametrize("action", ["guide", "refuse"])
def test_without_a_record_of_the_call_a_buffered_answer_does_not_leave(action):
    sink, keeper, called = FailingSink(FULL), Keeper(), []
    with guarded(
        shared_model(), _streaming("buffer", action), audit=memory_log(sink), on_decision=called.append
    ) as wrapped:
        sink.at = 1
        with wrapped.guard.collect() as reports, pytest.raises(AuditSinkError):
            _stream(wrapped, keeper)
        kinds = [record["type"] for record in _of_calls(sink)]
        assert kinds == ["guard.decision", "guard.error"]
        assert len(keeper.values) == 1
        assert keeper.ends == 1
        assert reports == called == []
        decision, error = _of_calls(sink)
        assert (error["req"], error["stage"]) == (decision["req"], "audit")
        assert wrapped.guard.hooked_blocks == ()
        _stream(wrapped, keeper)
    assert len(called) == 1


def test_without_a_record_of_the_call_a_window_ends_with_an_error_and_nothing_is_returned():
    sink, keeper, called = FailingSink(FULL), Keeper(), []
    with guarded(shared_model(), _streaming("window"), audit=memory_log(sink), on_decision=called.append) as wrapped:
        # The first decision, before a token is chosen, and the complete one.
        sink.at = 2
        with wrapped.guard.collect() as reports, pytest.raises(AuditSinkError):
            _stream(wrapped, keeper)
        kinds = [record["type"] for record in _of_calls(sink)]
    assert kinds == ["guard.decision", "guard.decision", "guard.error"]
    assert keeper.ends == 1
    assert reports == called == []


def test_without_a_record_of_the_call_no_answer_is_returned():
    sink = FailingSink(FULL)
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        sink.at = 3
        with pytest.raises(AuditSinkError):
            run(wrapped, prompts(3))
        kinds = [record["type"] for record in _of_calls(sink)]
        assert kinds == ["guard.decision"] * 3 + ["guard.error"]


def test_without_a_record_of_the_call_no_logits_and_no_verdict_leave():
    sink = FailingSink(FULL)
    with guarded(shared_model(), policy(0.0), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.forward() as scoring:
            sink.at = 2
            with pytest.raises(AuditSinkError):
                wrapped(**prompts(2))
            assert scoring.decisions == []
        sink.at = 1
        with wrapped.guard.collect() as reports, pytest.raises(AuditSinkError):
            wrapped.guard.check(conversation("hello"))
        assert reports == []
    assert _records(sink, "guard.request") == []
    assert [one["stage"] for one in _records(sink, "guard.error")] == ["audit", "audit"]


def test_what_a_callback_raises_follows_the_record_of_the_call_under_its_id():
    sink = MemorySink()

    def fail(_decision):
        raise LookupError

    with guarded(shared_model(), policy(0.0), audit=memory_log(sink), on_decision=fail) as wrapped:
        with pytest.raises(LookupError):
            run(wrapped, prompts(1))
        decision, request, error = _of_calls(sink)
    assert [decision["type"], request["type"], error["type"]] == ["guard.decision", "guard.request", "guard.error"]
    assert decision["req"] == request["req"] == error["req"]
