"""`torch.compile` under the executor `compiled`: the guarantees of the eager one."""

from __future__ import annotations

import pytest
import torch
from tests.compiled_models import (
    ROWS,
    TOKENS,
    graphs,
    guarded_and_compiled,
    guided,
    operated_and_compiled,
    rows_of,
    unguided,
    unguided_steps,
)
from tests.guarded_models import (
    answers,
    conversation,
    fresh_model,
    guarded,
    policy,
    prompts,
    registry_for,
    run,
    same_rows,
    split_of,
    state_of,
)
from tests.operated_models import OPERATORS, POINTS, intervention, operated, schedule, vector
from tests.rolling_guards import UNREACHED, rolling
from transformers import CompileConfig

from steerguard.errors import UnguidedForwardError
from steerguard.guidance.intervention import ByPhase, ByStep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nothing_compiled"),
    # Ours are errors; what torch says about its own code while it compiles is not ours.
    pytest.mark.filterwarnings("ignore:::torch.*"),
]
ARCHITECTURES = ("qwen2", "gemma2", "gemma3", "gpt2", "mistral", "phi", "mixtral")


def assert_guided(model, batch, how="forward", *, fullgraph=True, **settings):
    """Closed rows as compiled without a guard, open rows as under the eager executor, and every dose proven."""
    width, document = batch["input_ids"].shape[1], policy(split_of(model, batch["input_ids"].shape[0]))
    plain = unguided(model, batch, how, fullgraph=fullgraph, **settings)
    with guarded(model, document) as wrapped:
        eager, _ = guided(wrapped, batch, **settings)
    with guarded_and_compiled(model, document, how, fullgraph=fullgraph) as wrapped:
        before = graphs()
        found, reports = guided(wrapped, batch, **settings)
        assert graphs() > before
    opened, closed = rows_of(reports, "guide"), rows_of(reports, "allow")
    assert opened
    assert closed
    assert same_rows(closed, plain, found, width)
    assert answers(found[0], width) == answers(eager[0], width)
    assert all(not torch.equal(plain[1][-1][row], found[1][-1][row]) for row in opened)
    assert all(reports[row].doses for row in opened)
    for one, other in zip(eager[1], found[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("how", ["forward", "model.compile"])
@pytest.mark.parametrize("fullgraph", [True, False])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_a_compiled_model_is_guided_as_an_eager_one(how, fullgraph, cache):
    assert_guided(fresh_model(), prompts(ROWS), how, fullgraph=fullgraph, cache_implementation=cache)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_class_is_guided_compiled(architecture):
    assert_guided(fresh_model(architecture), prompts(ROWS), fullgraph=False)


def test_transformers_own_compilation_is_guided():
    model, batch = fresh_model(), prompts(ROWS)
    config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    config._compile_all_devices = True
    settings = {"cache_implementation": "static", "compile_config": config, **TOKENS}
    document = policy(split_of(model, ROWS))
    plain = run(model, batch, **settings)
    del model._compiled_call, model._last_compile_config
    before = state_of(model)
    with guarded(model, document, executor="compiled") as wrapped:
        compiled_before = graphs()
        found, reports = guided(wrapped, batch, **settings)
        assert graphs() > compiled_before
        with pytest.raises(UnguidedForwardError):
            wrapped.get_compiled_call(config)(**batch)
        chunked, _ = guided(wrapped, batch, prefill_chunk_size=7, **settings)
        assert torch.equal(chunked[0], found[0])
    assert same_rows(rows_of(reports, "allow"), plain, found, batch["input_ids"].shape[1])
    assert not torch.equal(plain[1][-1], found[1][-1])
    assert state_of(model) == before


@pytest.mark.parametrize("mode", ["monitor", "off"])
def test_a_guard_that_does_not_act_leaves_compiled_steps_alone(mode):
    model, batch = fresh_model(), prompts(ROWS)
    plain = unguided(model, batch)
    with guarded_and_compiled(model, mode=mode) as wrapped:
        assert same_rows(range(ROWS), plain, guided(wrapped, batch)[0], batch["input_ids"].shape[1])


SCHEDULES = {
    "by phase": ByPhase(prompt=vector(1, 2.0), last=None, decode=vector(2, 3.0)),
    "by step": ByStep(prompt=None, last=vector(3, 2.0), steps=(vector(4, 3.0), None, vector(5, 3.0))),
    **{name: schedule(name) for name in OPERATORS},
}


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_and_operator_acts_compiled_as_it_does_eagerly(name, point):
    model, batch = fresh_model(), prompts(ROWS)
    document = policy(split_of(model, ROWS))
    items = [intervention(SCHEDULES[name], 2, point), intervention(schedule("add", "decode", seed=9), 2, point)]
    plain = unguided(model, batch)
    with operated(model, items, document) as wrapped:
        eager, doses = guided(wrapped, batch)
    with operated_and_compiled(model, items, document) as wrapped:
        found, reports = guided(wrapped, batch)
    assert [one.doses for one in reports] == [one.doses for one in doses]
    assert torch.equal(found[0], eager[0])
    assert same_rows(rows_of(reports, "allow"), plain, found, batch["input_ids"].shape[1])
    for one, other in zip(eager[1], found[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}, {"prefill_chunk_size": 7}],
    ids=["beams", "several answers", "a prefill in chunks"],
)
def test_other_ways_of_generating_run_compiled(settings):
    model, batch = fresh_model(), prompts(ROWS)
    document = policy(split_of(model, ROWS))
    with guarded(model, document) as wrapped:
        eager, _ = guided(wrapped, batch, **settings)
    with guarded_and_compiled(model, document, fullgraph=False) as wrapped:
        found, _ = guided(wrapped, batch, **settings)
        assert graphs()
    assert torch.equal(found[0], eager[0])


def test_hidden_states_that_are_asked_for_carry_what_guidance_changed():
    model, batch = fresh_model(), prompts(ROWS)
    settings = {"return_dict_in_generate": True, "output_hidden_states": True}
    with guarded(model, policy(-1e6)) as wrapped:
        eager, _ = guided(wrapped, batch, **settings)
    with guarded_and_compiled(model, fullgraph=False) as wrapped:
        found, _ = guided(wrapped, batch, **settings)
    for one, other in zip(eager[0].hidden_states, found[0].hidden_states, strict=True):
        for here, there in zip(one, other, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["without a cache", "a rolling guard"])
def test_what_does_not_run_compiled_runs_guided_all_the_same(way):
    model, batch = fresh_model(), prompts(ROWS)
    document = policy(split_of(model, ROWS)) if way == "without a cache" else rolling(UNREACHED)
    settings = {"use_cache": False} if way == "without a cache" else {}
    with guarded(model, document) as wrapped:
        eager, _ = guided(wrapped, batch, **settings)
    with guarded_and_compiled(model, document) as wrapped:
        found, _ = guided(wrapped, batch, **settings)
        assert graphs() == 0
    assert torch.equal(found[0], eager[0])


def test_checks_and_scores_are_those_of_the_eager_executor():
    model, batch = fresh_model(), prompts(ROWS)
    document, chats = policy(split_of(model, ROWS)), [conversation("hello there"), conversation("x")]
    results = []
    for executor in ("eager", "compiled"):
        with guarded(model, document, executor=executor) as wrapped:
            if executor == "compiled":
                wrapped.compile(backend="eager", fullgraph=True)
            with wrapped.guard.forward() as scoring, torch.no_grad():
                logits = wrapped(**batch).logits
            checks = [(one.intended, one.readings) for one in wrapped.guard.check(chats)]
            results.append((logits, [one.doses for one in scoring.decisions[0]], checks))
            wrapped._compiled_call_impl = None
    assert graphs() == 0
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_inductor_runs_guided():
    model, batch = fresh_model(num_blocks=2), prompts(ROWS)
    registry = registry_for(model, probe_blocks=(0,), steered_blocks=(0, 1))
    with guarded(model, policy(0.0), registry=registry, mode="monitor") as wrapped:
        scores = sorted(report.readings[0].score for report in guided(wrapped, batch)[1])
    document = policy((scores[1] + scores[2]) / 2)
    plain = unguided_steps(model, batch, "inductor")
    with guarded(model, document, registry=registry) as wrapped:
        eager, _ = guided(wrapped, batch)
    with guarded_and_compiled(model, policy(1e6), backend="inductor", registry=registry) as wrapped:
        closed, _ = guided(wrapped, batch)
    with guarded_and_compiled(model, document, backend="inductor", registry=registry) as wrapped:
        found, reports = guided(wrapped, batch)
    # Where no row is open the graph is the same, so every bit is.
    assert same_rows(range(ROWS), plain, closed, batch["input_ids"].shape[1])
    # A compiler that fuses may round in another order in the graph that adds.
    rest = rows_of(reports, "allow")
    assert rest
    assert torch.equal(found[0][rest], plain[0][rest])
    for one, other in zip(plain[1], found[1], strict=True):
        torch.testing.assert_close(one[rest], other[rest], rtol=1e-5, atol=1e-5)
    assert all(not torch.equal(plain[1][-1][row], found[1][-1][row]) for row in rows_of(reports, "guide"))
    assert torch.equal(found[0], eager[0])
    for one, other in zip(eager[1], found[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
