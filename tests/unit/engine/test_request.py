"""A guided request: negative zero, positions, and decode steps that never wait for the device."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import SCHEDULES, blocks_of, guarded, policy, prompts, registry_for, run, shared_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.utils import output_capturing

from steerguard.engine.active import activity
from steerguard.engine.loop import GuidedLoop
from steerguard.engine.loop_settings import LoopSettings
from steerguard.engine.outcome import read_verdicts, readings
from steerguard.engine.request import GuidedRequest
from steerguard.errors import GuidanceDidNotFireError

SAMPLING = LoopSettings(
    prompt_width=24, limit=12, samples=True, beams=False, copies=1, answers=1, pad=0, end_ids=(2,), records_states=False
)
WAITS = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.item.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
    torch.ops.aten._to_copy.default,
)


class NoWaiting(TorchDispatchMode):
    """Fails on every operation that makes the host wait for the device, or copies between them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in WAITS:
            raise AssertionError(f"{func} makes the host wait")
        return func(*args, **(kwargs or {}))


def _request(wrapped, batch, *, cached=True):
    engine = wrapped.guard._engine
    ends = engine.generation_prompt.ends(batch["input_ids"], batch["attention_mask"])
    return GuidedRequest(
        owner=wrapped.guard,
        program=engine.program,
        prompt_mask=batch["attention_mask"].bool(),
        ends=ends,
        steers=True,
        cached=cached,
    )


def _prefill(request, width=32, dtype=torch.float32):
    torch.manual_seed(0)
    hidden = torch.randn(*request.prompt_mask.shape, width, dtype=dtype)
    outputs = {block: request.at_block(block, hidden) for block in request.program.blocks}
    return hidden, outputs


def _decode(wrapped, request, hidden):
    """Run our hooks as a decode step of the model does."""
    with activity(request):
        for block in wrapped.guard.hooked_blocks:
            hooks = list(wrapped.get_decoder().layers[block]._forward_hooks.values())
            # Who once asked for hidden states has left a hook of the library's own there.
            ours = [hook for hook in hooks if hook.__module__ != output_capturing.__name__]
            assert ours
            for hook in ours:
                assert hook(None, (), hidden) is not None


@pytest.mark.parametrize("steers", [True, False])
def test_a_revoked_request_reads_and_changes_nothing_and_is_complete(steers):
    rules = "rules: []\ndefault: {action: guide, use: [steer]}"
    for document in (policy(0.0), policy(rules=rules, detector=False)):
        with guarded(shared_model(), document) as wrapped:
            engine, batch = wrapped.guard.engine, prompts(3)
            request = GuidedRequest(
                owner=wrapped.guard,
                program=engine.program,
                prompt_mask=batch["attention_mask"].bool(),
                ends=(None, 3, 4),
                steers=steers,
                cached=True,
                revoked=True,
            )
            assert request.prefill_hooks() == {}
            assert not request.reads_anything
            request.limit([True, True, True])
            request.require_complete()
            verdicts = read_verdicts(request, "enforce" if steers else "monitor")
            assert {verdict.verdict.cause for verdict in verdicts} == {"revoked"}
            assert {verdict.applied for verdict in verdicts} == {"refuse" if steers else "allow"}
            assert all(verdict.open == () and readings(engine.program.plan, verdict) == () for verdict in verdicts)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("settings", ["coefficient: 4.0", "coefficient: 4.0, gate: per_block"])
def test_the_whole_path_of_a_decode_step_never_waits_for_the_device(settings, schedule):
    registry = registry_for(shared_model(), schedule=schedule)
    with guarded(shared_model(), policy(0.0, settings=settings), registry=registry) as wrapped:
        request = _request(wrapped, prompts(8))
        loop = GuidedLoop(wrapped.guard._engine, request, SAMPLING)
        loop.start()
        _prefill(request)
        logits = torch.randn(8, 320)
        loop.on_logits(logits)
        assert wrapped.guard.hooked_blocks
        with NoWaiting():
            for _ in range(5):
                _decode(wrapped, request, torch.ones(8, 1, 32))
                loop.on_logits(logits)
                loop.finished(torch.zeros(8, dtype=torch.bool))
        loop.stop()
        with pytest.raises(AssertionError, match="wait"), NoWaiting():
            bool(torch.ones(1) > 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_closed_row_of_a_decode_step_keeps_every_bit_negative_zero_included(dtype, schedule):
    registry = registry_for(shared_model(), schedule=schedule)
    with guarded(shared_model(), policy(0.0), registry=registry) as wrapped:
        request = _request(wrapped, prompts(8))
        _prefill(request, dtype=dtype)
        opened = request.open["steer"]
        assert opened.any()
        assert not opened.all()
        request.freeze(list(request.gates))
        hook = request.decode_hooks()[1]
        step = torch.randn(8, 1, 32, dtype=dtype)
        step[:, :, :8] = torch.tensor([0.0, -0.0, 1e-30, -1e-30, float("inf"), -float("inf"), 6e4, -6e4], dtype=dtype)
        with activity(request):
            changed = hook(None, (), step)
    bits = {4: torch.int32, 2: torch.int16}[step.element_size()]
    assert changed.dtype == dtype
    assert torch.equal(changed[~opened].view(bits), step[~opened].view(bits))
    assert not torch.equal(changed[opened], step[opened])


def test_a_closed_row_of_a_prefill_keeps_every_bit_even_of_nan():
    with guarded(shared_model(), policy(0.0)) as wrapped:
        request = _request(wrapped, prompts(8))
        hidden = torch.randn(*request.prompt_mask.shape, 32)
        hidden[3] = float("nan")
        outputs = [request.at_block(block, hidden) for block in (0, 1, 2)]
    closed = ~request.open["steer"]
    assert closed[3]
    for output in outputs[1:]:
        assert torch.equal(output[closed].view(torch.int32), hidden[closed].view(torch.int32))


def test_padding_is_never_changed():
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        for side in ("left", "right"):
            request = _request(wrapped, prompts(8, side))
            hidden, outputs = _prefill(request)
            padding = ~request.prompt_mask
            assert padding.any()
            assert torch.equal(outputs[2][padding], hidden[padding])
            assert not torch.isclose(outputs[2][~padding], hidden[~padding]).all(dim=-1).any()


@pytest.mark.parametrize("shape", [(8, 5, 32), (4, 24, 32)], ids=["narrower", "fewer rows"])
def test_a_prefill_of_another_shape_raises(shape):
    with guarded(shared_model(), policy(-1e6)) as wrapped:
        request = _request(wrapped, prompts(8))
        with pytest.raises(GuidanceDidNotFireError, match="number of positions"):
            request.at_block(0, torch.zeros(shape))


def test_a_decode_step_of_several_positions_counts_them_all_so_that_the_fired_proof_sees_it():
    passes = []

    def pass_again(*_arguments):
        passes.append(1)
        if len(passes) == 2:
            # The fence refuses a real one.
            for hook in [hook for block in blocks_of(model) for hook in block._forward_hooks.values()]:
                hook(None, (), torch.zeros(3, 2, 32))

    model = shared_model()
    with guarded(model, policy(-1e6)) as wrapped:
        request = _request(wrapped, prompts(8))
        _prefill(request)
        request.freeze(list(request.gates))
        hooks = request.decode_hooks()
        with activity(request):
            for block in (1, 2):
                hooks[block](None, (), torch.zeros(8, 2, 32))
        assert request.decode_passes == {1: 2, 2: 1}
        handle = model.lm_head.register_forward_hook(pass_again)
        try:
            with pytest.raises(GuidanceDidNotFireError, match="number of positions"):
                run(wrapped, prompts(3))
        finally:
            handle.remove()
