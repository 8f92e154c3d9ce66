"""Who reaches a model under the executor `compiled`, and what a call leaves behind: callbacks, threads, direct passes."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.compiled_models import ROWS, TOKENS, compiled, guarded_and_compiled, guided, unguided
from tests.guarded_models import (
    fresh_model,
    guarded,
    memory_log,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    shared_model,
    split_of,
    state_of,
    tokenizer,
)
from transformers import CompileConfig

import steerguard
from steerguard.errors import (
    UnguidedForwardError,
    UnsupportedArchitectureError,
    UnsupportedGenerationError,
    WrapError,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nothing_compiled"),
    # Ours are errors; what torch says about its own code while it compiles is not ours.
    pytest.mark.filterwarnings("ignore:::torch.*"),
]


@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_direct_pass_is_refused_before_and_after_a_generation(fullgraph):
    with guarded_and_compiled(fresh_model(), fullgraph=fullgraph) as wrapped:
        batch = prompts(2)
        # What breaks a graph that must not break ends in an error of torch instead.
        refused = (UnguidedForwardError, torch._dynamo.exc.Unsupported)
        for _ in range(2):
            with pytest.raises(UnguidedForwardError):
                wrapped(**batch)
            with pytest.raises(refused):
                wrapped.forward(**batch)
            with pytest.raises(refused):
                torch.compile(wrapped, backend="eager", fullgraph=fullgraph)(**batch)
            with pytest.raises(refused):
                torch.compile(wrapped.get_decoder(), backend="eager", fullgraph=fullgraph)(**batch)
            guided(wrapped, batch)


def test_compiled_code_that_another_thread_reaches_while_the_prompt_is_read_is_refused():
    found, started = [], []
    with guarded_and_compiled(fresh_model(), fullgraph=False) as wrapped:
        decoder, other = torch.compile(wrapped.get_decoder(), backend="eager"), prompts(3)

        def reach():
            try:
                found.append(decoder(**other))
            except UnguidedForwardError as error:
                found.append(error)

        def start(*_):
            if not started:
                thread = threading.Thread(target=reach)
                started.append(thread)
                thread.start()
                thread.join(timeout=300)

        handle = wrapped.get_decoder().layers[0].mlp.register_forward_hook(start)
        guided(wrapped, prompts(2))
        handle.remove()
    assert [type(one) for one in found] == [UnguidedForwardError]


def test_errors_name_the_other_executor():
    model, registry = fresh_model(), registry_for(shared_model())
    with compiled(model), pytest.raises(UnsupportedArchitectureError, match='executor="compiled"'):
        steerguard.wrap(
            model, policy(), tokenizer=tokenizer(), registry=registry, audit=memory_log(), executor="compiled"
        )
    with (
        guarded(model, registry=registry) as wrapped,
        compiled(wrapped),
        pytest.raises(UnsupportedGenerationError, match='executor="compiled"'),
    ):
        guided(wrapped, prompts(2))
    with pytest.raises(WrapError, match="executor"):
        steerguard.wrap(model, policy(), tokenizer=tokenizer(), registry=registry, executor="fast")


def test_a_part_in_a_container_is_refused_by_name():
    with guarded(fresh_model(), executor="compiled", registry=registry_for(shared_model())) as wrapped:
        mlp = wrapped.get_decoder().layers[2].mlp
        wrapped.get_decoder().layers[2].mlp = torch.compile(mlp, backend="eager")
        with pytest.raises(UnsupportedGenerationError, match="container"):
            guided(wrapped, prompts(2))
        wrapped.get_decoder().layers[2].mlp = mlp


def test_a_failing_callback_leaves_nothing_behind():
    model, batch = fresh_model(), prompts(ROWS)

    def fail(step):
        if step == 2:
            raise RuntimeError("a callback of a test")

    with guarded_and_compiled(model) as wrapped:
        expected, _ = guided(wrapped, batch)
        before, traced = state_of(wrapped), wrapped.guard.compiled
        with pytest.raises(RuntimeError, match="callback"):
            run(wrapped, batch, act=fail, **TOKENS)
        assert state_of(wrapped) == before
        assert traced.is_free
        assert traced._state.passage == "closed"
        assert all(place.stages == () for place in traced._places.values())
        assert torch.equal(guided(wrapped, batch)[0][0], expected[0])


def test_unwrapping_takes_everything_away_and_compiled_code_runs_unguided():
    model, batch = fresh_model(), prompts(ROWS)
    plain = unguided(model, batch)
    before = state_of(model)
    with guarded(model, policy(-1e6), executor="compiled") as wrapped:
        assert wrapped.guard.hooked_blocks
        wrapped.forward = torch.compile(wrapped.forward, backend="eager", fullgraph=True)
        assert not torch.equal(guided(wrapped, batch)[0][1][-1], plain[1][-1])
    assert same_rows(range(ROWS), plain, run(model, batch, **TOKENS), batch["input_ids"].shape[1])
    del model.forward
    assert state_of(model) == before


def test_a_callback_may_generate_on_the_same_model():
    model, batch, other = fresh_model(), prompts(ROWS), prompts(3)
    with guarded_and_compiled(model) as wrapped:
        expected, inner = guided(wrapped, batch)[0][0], guided(wrapped, other)[0][0]
        found = []

        def nested(step):
            if step == 2:
                found.append(run(wrapped, other, **TOKENS)[0])
                with wrapped.guard.unguided("a test"):
                    run(wrapped, other, **TOKENS)

        assert torch.equal(run(wrapped, batch, act=nested, **TOKENS)[0], expected)
        assert torch.equal(found[0], inner)


@pytest.mark.parametrize("threshold", [-1e6, 1e6])
def test_a_callback_may_generate_where_transformers_compiles_by_itself(threshold):
    config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    config._compile_all_devices = True
    settings = {"cache_implementation": "static", "compile_config": config, **TOKENS}
    batch, other, found = prompts(ROWS), prompts(3), []
    with guarded(fresh_model(), policy(threshold), executor="compiled") as wrapped:
        expected, inner = run(wrapped, batch, **settings)[0], run(wrapped, other, **settings)[0]

        def nested(step):
            if step == 2:
                found.append(run(wrapped, other, prefill_chunk_size=7, **settings)[0])

        assert torch.equal(run(wrapped, batch, act=nested, **settings)[0], expected)
    assert torch.equal(found[0], inner)


def test_threads_wait_for_one_another():
    model = fresh_model()
    document, batches = policy(split_of(model, 8)), [prompts(2), prompts(3)]
    with guarded_and_compiled(model, document, fullgraph=False) as wrapped:
        expected = [guided(wrapped, batch)[0][0] for batch in batches]
        with wrapped.guard.unguided("a test"):
            free = [guided(wrapped, batch)[0][0] for batch in batches]
        wrong = []

        def work(index):
            for turn in range(6):
                if turn % 3 == 2:
                    with wrapped.guard.unguided("a test"):
                        same = torch.equal(guided(wrapped, batches[index])[0][0], free[index])
                else:
                    same = torch.equal(guided(wrapped, batches[index])[0][0], expected[index])
                if not same:
                    wrong.append((index, turn))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=600)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []
