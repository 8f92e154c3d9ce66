"""Who may run a forward pass of a wrapped model."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from tests.guarded_models import FailingSink, guarded, memory_log, policy, prompts, run, shared_model

from steerguard.errors import AuditSinkError, UnguidedForwardError, UnsupportedGenerationError
from steerguard.testing import MemorySink

BATCH = prompts(2)


@pytest.mark.parametrize("call", ["__call__", "forward"])
def test_a_direct_forward_raises(call):
    with guarded(shared_model(), policy(1e6)) as wrapped, pytest.raises(UnguidedForwardError, match="unguided"):
        getattr(wrapped, call)(**BATCH)


def test_a_thread_started_inside_a_run_may_not_forward():
    caught = []

    def act(step):
        def forward():
            try:
                wrapped(**BATCH)
            except UnguidedForwardError as error:
                caught.append(error)

        if step == 1:
            thread = threading.Thread(target=forward)
            thread.start()
            thread.join()

    with guarded(shared_model(), policy(-1e6)) as wrapped:
        run(wrapped, BATCH, act=act)
    assert len(caught) == 1


def test_unguided_runs_the_plain_model_and_records_the_bypass_first():
    model = shared_model()
    plain, _ = run(model, prompts(4))
    logits = model(**BATCH).logits
    sink = MemorySink()
    with guarded(model, policy(-1e6), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.unguided("scoring a benchmark"):
            record = json.loads(sink.lines[-1])
            assert torch.equal(run(wrapped, prompts(4))[0], plain)
            assert torch.equal(wrapped(**BATCH).logits, logits)
            beams = wrapped.generate(**BATCH, num_beams=2, max_new_tokens=3)
        assert beams.shape[0] == 2
        assert (record["type"], record["kind"], record["reason"]) == ("guard.bypass", "unguided", "scoring a benchmark")
        with pytest.raises(UnguidedForwardError):
            wrapped(**BATCH)
        assert not torch.equal(run(wrapped, prompts(4))[0], plain)


def test_unguided_holds_for_one_thread_only():
    failures = []

    def forward():
        try:
            wrapped(**BATCH)
        except UnguidedForwardError as error:
            failures.append(error)

    with guarded(shared_model(), policy(1e6)) as wrapped, wrapped.guard.unguided("a test"):
        thread = threading.Thread(target=forward)
        thread.start()
        thread.join()
    assert len(failures) == 1


def test_unguided_on_one_model_does_not_open_another():
    with (
        guarded(shared_model("llama"), policy(1e6)) as one,
        guarded(shared_model("gpt2"), policy(1e6)) as other,
        one.guard.unguided("a test"),
        pytest.raises(UnguidedForwardError),
    ):
        other(**BATCH)


@pytest.mark.parametrize("reason", ["", "  "])
def test_a_bypass_needs_a_reason(reason):
    with (
        guarded(shared_model(), policy(1e6)) as wrapped,
        pytest.raises(UnsupportedGenerationError, match="reason"),
        wrapped.guard.unguided(reason),
    ):
        raise AssertionError


def test_a_bypass_that_cannot_be_recorded_does_not_happen():
    sink = FailingSink(AuditSinkError("The disk is full."))
    with guarded(shared_model(), policy(1e6), audit=memory_log(sink)) as wrapped:
        sink.at = 0
        with pytest.raises(AuditSinkError), wrapped.guard.unguided("a test"):
            raise AssertionError
        with pytest.raises(UnguidedForwardError):
            wrapped(**BATCH)


def test_a_run_inside_a_run_is_guided_and_leaves_the_outer_one_alone():
    inner = []

    def act(step):
        if step == 1:
            with wrapped.guard.collect() as reports:
                tokens, _ = run(wrapped, prompts(3), max_new_tokens=3)
            inner.append((tokens, [report.applied for report in reports]))

    with guarded(shared_model(), policy(-1e6)) as wrapped:
        alone = run(wrapped, prompts(3), max_new_tokens=3)
        outer = run(wrapped, prompts(5))
        nested = run(wrapped, prompts(5), act=act)
    assert torch.equal(outer[0], nested[0])
    assert torch.equal(alone[0], inner[0][0])
    assert inner[0][1] == ["guide"] * 3
