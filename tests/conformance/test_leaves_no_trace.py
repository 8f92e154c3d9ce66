"""Guarantee 4: whatever happens inside a call, the model is afterwards exactly what it was, and no text came out."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.guarded_models import (
    ARCHITECTURES,
    FailingSink,
    blocks_of,
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    shared_model,
    splitting_threshold,
    state_of,
    tokenizer,
)

import steerguard
from steerguard.errors import (
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    AuditSinkError,
    IncompatibleModelError,
    PolicyError,
    PolicyNotFoundError,
    UnsupportedPlanError,
)
from steerguard.registry.local import create_registry
from steerguard.testing import tiny_registry

OPEN = policy(-1e6)


def _expect_failure_without_trace(wrapped, error, call):
    """The call raises, the model is as before, nothing is hooked, and the next call works."""
    before = state_of(wrapped)
    with wrapped.guard.collect() as reports, pytest.raises(error):
        call()
    assert reports == []
    assert wrapped.guard.hooked_blocks == ()
    assert state_of(wrapped) == before
    tokens, _ = run(wrapped, prompts(3))
    assert tokens.shape[1] > prompts(3)["input_ids"].shape[1]
    assert state_of(wrapped) == before


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_successful_call_leaves_every_hook_weight_and_attribute_as_it_was(architecture):
    model = shared_model(architecture)
    # The first generation of a model may fill caches of transformers itself.
    run(model, prompts(4))
    plain = state_of(model)
    with guarded(model, policy(splitting_threshold(architecture))) as wrapped:
        before = state_of(wrapped)
        for settings in ({}, {"do_sample": True}, {"use_cache": False}, {"return_dict_in_generate": True}):
            run(wrapped, prompts(8), **settings)
            assert state_of(wrapped) == before
        wrapped.guard.check([{"role": "user", "content": "hello"}])
        assert state_of(wrapped) == before
    assert state_of(model) == plain


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize("step", [0, 2], ids=["prefill", "second decode step"])
@pytest.mark.parametrize("block", range(4))
def test_an_exception_inside_any_block_leaves_no_trace(block, step, use_cache):
    model = fresh_model()
    fuse = []

    def boom(*_):
        if fuse and not fuse.pop():
            raise RuntimeError("user code")

    def call():
        # One entry is used up per forward pass; the false one explodes.
        fuse[:] = [False, *([True] * step)]
        run(wrapped, prompts(3), use_cache=use_cache)

    handle = blocks_of(model)[block].register_forward_hook(boom)
    registry = registry_for(shared_model())
    with guarded(model, OPEN, registry=registry) as wrapped:
        _expect_failure_without_trace(wrapped, RuntimeError, call)
    handle.remove()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupt_between_two_tokens_leaves_no_trace(error):
    def act(step):
        if step == 1:
            raise error

    with guarded(shared_model(), OPEN) as wrapped:
        _expect_failure_without_trace(wrapped, error, lambda: run(wrapped, prompts(3), act=act))


def test_a_raising_probe_leaves_no_trace():
    with guarded(shared_model(), OPEN) as wrapped:
        guard = wrapped.guard
        engine = guard._engine
        probe = engine.program.probes[0]
        broken = dataclasses.replace(probe, weight=torch.ones(2, 7))
        blocks = {
            number: dataclasses.replace(block, reads=tuple((broken, index) for _, index in block.reads))
            for number, block in engine.program.blocks.items()
        }
        program = dataclasses.replace(engine.program, probes=(broken,), blocks=blocks)
        before = state_of(wrapped)
        guard._engine = guard._policies._in_force = dataclasses.replace(engine, program=program)
        for call in (lambda: run(wrapped, prompts(3)), lambda: guard.check([{"role": "user", "content": "hi"}])):
            with pytest.raises(RuntimeError, match="size"):
                call()
            assert guard.hooked_blocks == ()
            assert state_of(wrapped) == before
        guard._engine = guard._policies._in_force = engine
        run(wrapped, prompts(3))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_sink_that_fails_at_any_row_releases_no_text(at):
    sink = FailingSink(AuditSinkError("The disk is full."))
    with guarded(shared_model(), OPEN, audit=memory_log(sink)) as wrapped:

        def call():
            sink.at = at
            run(wrapped, prompts(3))

        _expect_failure_without_trace(wrapped, AuditSinkError, call)


def test_a_sink_that_stays_broken_still_raises_the_first_error():
    sink = FailingSink(AuditSinkError("The disk is full."))
    with guarded(shared_model(), OPEN, audit=memory_log(sink)) as wrapped:

        def boom(_step):
            sink.at = 0
            raise RuntimeError("user code")

        with pytest.raises(RuntimeError, match="user code") as caught:
            run(wrapped, prompts(2), act=boom)
    assert caught.value.__notes__ == ["The audit log could not record this failure: AuditSinkError."]


def test_a_raising_on_decision_releases_no_text():
    seen = []

    def on_decision(decision):
        seen.append(decision)
        if len(seen) == 2:
            raise LookupError("user code")

    model = shared_model()
    with guarded(model, OPEN, on_decision=on_decision) as wrapped:
        before = state_of(wrapped)
        with pytest.raises(LookupError):
            run(wrapped, prompts(3))
        assert state_of(wrapped) == before
        assert wrapped.guard.hooked_blocks == ()
        run(wrapped, prompts(3))
    assert len(seen) == 5


def test_unwrap_restores_the_model_exactly():
    model = fresh_model()
    run(model, prompts(2))
    before = state_of(model)
    wrapped = steerguard.wrap(
        model, OPEN, tokenizer=tokenizer(), registry=registry_for(shared_model()), audit=memory_log()
    )
    assert wrapped is model
    run(wrapped, prompts(2))
    assert steerguard.unwrap(wrapped) is model
    assert state_of(model) == before
    assert not hasattr(model, "guard")
    run(model, prompts(2))


def _tampered(tmp_path):
    registry = tiny_registry(tmp_path / "registry", shared_model(), tokenizer())
    file = next((tmp_path / "registry").rglob("vectors.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    return {"registry": registry}


def _other_weights(tmp_path):
    return {"registry": tiny_registry(tmp_path / "registry", fresh_model(seed=5), tokenizer())}


def _empty_registry(tmp_path):
    return {"registry": create_registry(tmp_path / "empty")}


def _unwritable_audit(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    return {"audit": tmp_path / "file" / "audit"}


def _failing_audit(_tmp_path):
    sink = FailingSink(AuditSinkError("The disk is full."))
    log = memory_log(sink)
    sink.at = 1
    return {"audit": log}


@pytest.mark.parametrize(
    ("error", "changes"),
    [
        (PolicyNotFoundError, lambda _: {"policy": "no-such-policy"}),
        (PolicyError, lambda tmp: {"policy": _written(tmp / "p.yaml", "kind: 3\n")}),
        (ArtifactNotFoundError, _empty_registry),
        (ArtifactIntegrityError, _tampered),
        (IncompatibleModelError, _other_weights),
        (IncompatibleModelError, lambda _: {"policy": policy(settings="coefficient: 1.0, blocks: [9]")}),
        (UnsupportedPlanError, lambda _: {"policy": policy(more="unrecognised_prompt: gate_every_turn")}),
        (AuditSinkError, _unwritable_audit),
        (AuditSinkError, _failing_audit),
    ],
    ids=[
        "no policy",
        "bad policy",
        "no family",
        "tampered",
        "fingerprint",
        "no block",
        "not supported",
        "audit",
        "sink",
    ],
)
def test_a_failed_wrap_changes_nothing(error, changes, tmp_path):
    model = fresh_model()
    before = state_of(model)
    given = {
        "policy": OPEN,
        "tokenizer": tokenizer(),
        "registry": registry_for(shared_model()),
        "audit": tmp_path / "audit",
        **changes(tmp_path),
    }
    with pytest.raises(error):
        steerguard.wrap(model, given.pop("policy"), **given)
    assert state_of(model) == before
    model.generate(**prompts(2), max_new_tokens=2, do_sample=False)


def _written(path, text):
    path.write_text(text)
    return path
