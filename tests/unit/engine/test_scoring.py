"""What guided scoring accepts, records and refuses by name."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch
from tests.guarded_models import (
    FailingSink,
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
from transformers import DynamicCache

from steerguard.errors import (
    AuditSinkError,
    GuidanceDidNotFireError,
    UnguidedForwardError,
    UnsupportedGenerationError,
)
from steerguard.testing import MemorySink


def _records(sink, kind="guard.decision"):
    return [record for record in map(json.loads, sink.lines) if record["type"] == kind]


def test_every_row_of_every_pass_is_recorded_and_handed_out():
    sink, batch = MemorySink(), prompts(4)
    with guarded(shared_model(), policy(splitting_threshold(rows=4)), audit=memory_log(sink)) as wrapped:
        with wrapped.guard.collect() as reports, wrapped.guard.forward() as scoring:
            first = wrapped(**batch)
            wrapped(batch["input_ids"][:2], attention_mask=batch["attention_mask"][:2])
        assert [len(rows) for rows in scoring.decisions] == [4, 2]
        assert first.guidance == scoring.decisions[0]
    assert reports == [decision for rows in scoring.decisions for decision in rows]
    recorded = _records(sink)
    assert [record["req"] for record in recorded] == [report.request for report in reports]
    assert len({report.request for report in reports}) == 2
    assert all(report.usage.generated_tokens == 0 for report in reports)
    lengths = batch["attention_mask"].sum(1).tolist()
    assert [report.usage.prompt_tokens for report in reports[:4]] == lengths
    for report in reports:
        assert [dose.positions for dose in report.doses] == [dose.expected_positions for dose in report.doses]
        assert bool(report.doses) == (report.intended == "guide")


def test_no_record_no_logits():
    sink = FailingSink(AuditSinkError("The disk is full."))
    with guarded(shared_model(), policy(), audit=memory_log(sink)) as wrapped, wrapped.guard.forward() as scoring:
        sink.at = 1
        with pytest.raises(AuditSinkError):
            wrapped(**prompts(2))
        assert scoring.decisions == []


def test_a_failed_pass_is_recorded():
    sink = MemorySink()
    guarding = guarded(shared_model(), policy(), audit=memory_log(sink))
    with guarding as wrapped, wrapped.guard.forward(), pytest.raises(UnsupportedGenerationError):
        wrapped(**prompts(1), use_cache=True)
    assert [record["code"] for record in _records(sink, "guard.error")] == ["UnsupportedGenerationError"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("past_key_values", DynamicCache()),
        ("use_cache", True),
        ("inputs_embeds", torch.zeros(1, 3, 32)),
        ("position_ids", torch.arange(3)[None]),
        ("output_hidden_states", True),
        ("output_attentions", True),
        ("return_dict", False),
        ("pixel_values", torch.zeros(1)),
        ("something_new", 1),
    ],
)
def test_what_scoring_does_not_follow_raises_by_name(name, value):
    batch = prompts(1)
    with guarded(shared_model(), policy()) as wrapped, wrapped.guard.forward():
        with pytest.raises(UnsupportedGenerationError, match=f"`{name}`"):
            wrapped(**batch, **{name: value})
        with pytest.raises(UnsupportedGenerationError, match="input_ids"):
            wrapped(inputs_embeds=None)


def test_masks_and_ids_of_other_shapes_raise_by_name():
    batch = prompts(2)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with guarded(shared_model(), policy()) as wrapped, wrapped.guard.forward():
        for bad in (mask[:, None, None, :], mask[:, :-1], mask * 2):
            with pytest.raises(UnsupportedGenerationError, match=r"score with an `attention_mask`"):
                wrapped(input_ids=ids, attention_mask=bad)
        with pytest.raises(UnsupportedGenerationError, match="input_ids"):
            wrapped(input_ids=ids[0])
        with pytest.raises(UnsupportedGenerationError, match="`logits_to_keep` of shape"):
            wrapped(input_ids=ids, logits_to_keep=ids)


def test_harmless_values_and_nones_are_let_through():
    batch = prompts(2)
    with guarded(shared_model(), policy()) as wrapped, wrapped.guard.forward():
        plain = wrapped(**batch)
        same = wrapped(**batch, past_key_values=None, use_cache=False, return_dict=True, output_attentions=False)
    assert torch.equal(plain.logits, same.logits)
    assert plain.past_key_values is None
    assert set(plain.keys()) == {"logits"}


def test_without_the_block_a_direct_pass_stays_forbidden():
    batch = prompts(1)
    with guarded(shared_model(), policy()) as wrapped:
        with wrapped.guard.forward():
            wrapped(**batch)
        with pytest.raises(UnguidedForwardError, match=r"guard\.forward"):
            wrapped(**batch)


def test_the_block_holds_for_its_own_thread_and_task_only():
    batch, raised = prompts(1), []

    def call(wrapped):
        try:
            wrapped(**batch)
        except UnguidedForwardError:
            raised.append(True)

    async def elsewhere(wrapped):
        await asyncio.get_running_loop().create_task(_called(call, wrapped))

    with guarded(shared_model(), policy()) as wrapped, wrapped.guard.forward() as scoring:
        thread = threading.Thread(target=call, args=(wrapped,))
        thread.start()
        thread.join()
        asyncio.run(elsewhere(wrapped))
        assert scoring.decisions == []
    assert raised == [True, True]


async def _called(call, wrapped):
    call(wrapped)


def test_generate_and_check_and_unguided_work_inside_the_block_as_outside():
    batch = prompts(2)
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        wanted, _ = run(wrapped, batch)
        with wrapped.guard.forward() as scoring:
            tokens, _ = run(wrapped, batch)
            decision = wrapped.guard.check([{"role": "user", "content": "hello"}])
            with wrapped.guard.unguided("a test of nested blocks"):
                wrapped(**batch, use_cache=True)
            assert scoring.decisions == []
            wrapped(**batch)
        assert len(scoring.decisions) == 1
    assert torch.equal(tokens, wanted)
    assert decision.intended == "guide"


def test_another_models_block_gives_no_permission():
    other = fresh_model("qwen2")
    guarding = guarded(other, policy(), registry=registry_for(other))
    with guarded(shared_model(), policy()) as wrapped, guarding as second, wrapped.guard.forward():
        with pytest.raises(UnguidedForwardError):
            second(**prompts(1))
        wrapped(**prompts(1))


def test_an_exception_in_the_pass_leaves_no_hook_behind():
    def broken(_module, _arguments, _output):
        raise RuntimeError("from the app")

    model = fresh_model()
    with guarded(model, policy(), registry=registry_for(model)) as wrapped, wrapped.guard.forward():
        handle = wrapped.lm_head.register_forward_hook(broken)
        with pytest.raises(RuntimeError):
            wrapped(**prompts(1))
        handle.remove()
        assert wrapped.guard.hooked_blocks == ()
        assert torch.isfinite(wrapped(**prompts(1)).logits).all()


def test_a_pass_that_misses_the_hooks_is_not_scored():
    model = fresh_model()
    with guarded(model, policy(), registry=registry_for(model)) as wrapped, wrapped.guard.forward():
        block = wrapped.model.layers[1]
        kept = dict(block._forward_hooks)
        original = block.__class__.__call__
        try:
            block.__class__ = type(
                "Bypassing", (block.__class__,), {"__call__": lambda self, *a, **k: self.forward(*a, **k)}
            )
            with pytest.raises(GuidanceDidNotFireError):
                wrapped(**prompts(1))
        finally:
            block.__class__ = block.__class__.__mro__[1]
        assert dict(block._forward_hooks) == kept
        assert block.__class__.__call__ is original


def test_a_row_that_guidance_breaks_is_refused_and_says_so():
    model, batch = shared_model(), prompts(2)
    with guarded(model, policy(-1e6, settings="coefficient: 4.0")) as wrapped:
        for item in wrapped.guard.engine.program.interventions:
            kept = item.schedule.vector.clone()
            item.schedule.vector.fill_(float("nan"))
            with wrapped.guard.forward() as scoring:
                output = wrapped(**batch)
            item.schedule.vector.copy_(kept)
            break
    assert {(row.cause, row.applied) for row in scoring.decisions[0]} == {("non_finite", "refuse")}
    assert torch.isfinite(output.logits).all()
