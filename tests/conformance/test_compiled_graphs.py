"""What torch compiles under the executor `compiled`: how often, which graph, and what the fired proof finds."""

from __future__ import annotations

import pytest
import torch
from tests.compiled_models import (
    ROWS,
    graphs,
    guarded_and_compiled,
    guided,
    operated_and_compiled,
    unguided,
    unguided_steps,
)
from tests.conformance.test_compiled import SCHEDULES
from tests.guarded_models import fresh_model, guarded, policy, prompts, same_rows, split_of
from tests.operated_models import intervention, schedule

from steerguard.errors import GuidanceDidNotFireError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("nothing_compiled"),
    # Ours are errors; what torch says about its own code while it compiles is not ours.
    pytest.mark.filterwarnings("ignore:::torch.*"),
]


def test_generations_of_the_same_shape_compile_once_whatever_their_gates():
    model = fresh_model()
    with guarded_and_compiled(model, policy(split_of(model, ROWS))) as wrapped:
        first, reports = guided(wrapped, prompts(ROWS))
        compiled_once = graphs()
        turned = {name: tensor.flip(0) for name, tensor in prompts(ROWS).items()}
        second, others = guided(wrapped, turned)
        assert [one.applied for one in others] == [one.applied for one in reports[::-1]]
        assert torch.equal(first[0], second[0].flip(0))
        guided(wrapped, prompts(ROWS), max_new_tokens=8)
        assert graphs() == compiled_once


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_batches_of_different_sizes_follow_one_another(cache):
    model = fresh_model()
    document = policy(split_of(model, 8))
    with guarded_and_compiled(model, document, fullgraph=False) as wrapped:
        found = [guided(wrapped, prompts(rows), cache_implementation=cache)[0][0] for rows in (8, 3, 1, 5)]
    with guarded(model, document) as wrapped:
        for rows, tokens in zip((8, 3, 1, 5), found, strict=True):
            assert torch.equal(guided(wrapped, prompts(rows), cache_implementation=cache)[0][0], tokens)


def test_a_batch_without_an_open_row_runs_the_code_of_a_model_without_a_guard():
    model, batch = fresh_model(), prompts(ROWS)
    plain = unguided(model, batch)
    with guarded_and_compiled(model, policy(1e6)) as wrapped:
        with wrapped.guard.unguided("a test"):
            free, _ = guided(wrapped, batch)
        compiled_before = graphs()
        found, _ = guided(wrapped, batch)
        assert graphs() == compiled_before
    for result in (found, free):
        assert same_rows(range(ROWS), plain, result, batch["input_ids"].shape[1])


class Recording:
    """A backend that computes with the graphs as they are, and keeps what each of them calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, graph, _inputs):
        nodes = (node for node in graph.graph.nodes if node.op.startswith("call"))
        self.calls.append([(node.op, node.target) for node in nodes])
        return graph.forward


def test_the_graph_of_a_batch_without_an_open_row_is_that_of_a_model_without_a_guard():
    model, batch = fresh_model(), prompts(ROWS)
    plain, closed, opened = Recording(), Recording(), Recording()
    unguided_steps(model, batch, plain)
    # Torch remembers which sizes changed in code that it has seen, and would start from there.
    torch._dynamo.reset()
    with guarded_and_compiled(model, policy(1e6), backend=closed) as wrapped:
        guided(wrapped, batch)
    torch._dynamo.reset()
    with guarded_and_compiled(model, policy(-1e6), backend=opened) as wrapped:
        guided(wrapped, batch)
        hooked = len(wrapped.guard.hooked_blocks)
    assert closed.calls == plain.calls
    # An addition at each place, and one that counts.
    assert [len(calls) for calls in opened.calls] == [len(calls) + hooked + 1 for calls in plain.calls]


def test_inference_mode_and_no_mode_take_turns():
    model, batch = fresh_model(), prompts(ROWS)
    items = [intervention(SCHEDULES["by step"], 2), intervention(schedule("ablate"), 3)]
    with operated_and_compiled(model, items, fullgraph=False) as wrapped:
        found = []
        for inference in (False, True, False, True):
            with torch.inference_mode(inference):
                found.append(guided(wrapped, batch)[0][0].clone())
    assert all(torch.equal(found[0], other) for other in found)


def test_models_with_hooks_at_other_places_share_no_code():
    for blocks in ((1,), (1, 2)):
        items = [intervention(schedule("add"), block) for block in blocks]
        with operated_and_compiled(fresh_model(), items) as wrapped:
            _, reports = guided(wrapped, prompts(2))
        assert all(dose.open_blocks == blocks for report in reports for dose in report.doses)


def test_a_hook_that_was_removed_is_found():
    with guarded_and_compiled(fresh_model()) as wrapped:
        block = wrapped.get_decoder().layers[wrapped.guard.hooked_blocks[-1]]
        kept = dict(block._forward_hooks)
        block._forward_hooks.clear()
        with pytest.raises(GuidanceDidNotFireError):
            guided(wrapped, prompts(2))
        block._forward_hooks.update(kept)


def test_a_graph_that_was_compiled_without_guidance_is_found():
    with guarded_and_compiled(fresh_model()) as wrapped:
        with wrapped.guard.unguided("compiling in a test"):
            guided(wrapped, prompts(ROWS))
        # Torch then takes the code that it has, whatever its conditions.
        with (
            torch.compiler.set_stance("default", skip_guard_eval_unsafe=True),
            pytest.raises(GuidanceDidNotFireError),
        ):
            guided(wrapped, prompts(ROWS))
        guided(wrapped, prompts(ROWS))
