"""Two threads at fifty generations each, on two models and on one: every answer, logit and decision as in sequence."""

from __future__ import annotations

import dataclasses
import sys
import threading

import pytest
import torch
from tests.guarded_models import (
    guarded,
    policy,
    prompts,
    run,
    scores_of,
    shared_model,
    splitting_threshold,
    state_of,
)

from steerguard.errors import UnguidedForwardError

GENERATIONS = 50
SETTINGS = (
    {},
    {"use_cache": False, "max_new_tokens": 2},
    {"repetition_penalty": 1.3},
    {"return_dict_in_generate": True, "max_new_tokens": 3},
)


@pytest.fixture(autouse=True)
def _frequent_switches():
    """Let threads take turns about a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def _batches(seed):
    """Fifty batches of one to three rows, padded on either side; another order for another seed."""
    for number in range(GENERATIONS):
        place = number * 7 + seed
        batch = prompts(8, "left" if place % 3 else "right")
        rows = [(place + step) % 8 for step in range(1 + place % 3)]
        yield {key: tensor[rows] for key, tensor in batch.items()}, SETTINGS[place % len(SETTINGS)]


def _generate(wrapped, batch, settings):
    with wrapped.guard.collect() as reports:
        output, logits = run(wrapped, batch, **{"max_new_tokens": 4, **settings})
    tokens = output if isinstance(output, torch.Tensor) else output.sequences
    return tokens, logits, [dataclasses.replace(report, request="") for report in reports]


def _all(wrapped, seed):
    return [_generate(wrapped, batch, settings) for batch, settings in _batches(seed)]


def _together(*works):
    """Run each work in a thread of its own, started at the same moment."""
    barrier = threading.Barrier(len(works))
    results = [None] * len(works)

    def work(index):
        barrier.wait(timeout=30)
        try:
            results[index] = works[index]()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    return results


def _assert_equal(found, wanted):
    assert isinstance(found, list), repr(found)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(left, right) for left, right in zip(one[1], other[1], strict=True))
        assert one[2] == other[2]


def _kinds(results):
    return {report.applied for _, _, reports in results for report in reports}


def test_two_threads_with_a_model_and_a_policy_each_equal_the_sequential_runs():
    first, second = shared_model("llama"), shared_model("qwen2")
    refusing = policy(splitting_threshold("qwen2"), "refuse")
    with guarded(first, policy(splitting_threshold())) as one, guarded(second, refusing) as other:
        wanted = _all(one, 0), _all(other, 1)
        found = _together(lambda: _all(one, 0), lambda: _all(other, 1))
        assert one.guard.hooked_blocks == other.guard.hooked_blocks == ()
    assert [_kinds(results) for results in wanted] == [{"allow", "guide"}, {"allow", "refuse"}]
    for got, expected in zip(found, wanted, strict=True):
        _assert_equal(got, expected)


def test_two_threads_on_one_model_equal_the_sequential_runs():
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:
        before = state_of(wrapped)
        wanted = _all(wrapped, 0), _all(wrapped, 1)
        found = _together(lambda: _all(wrapped, 0), lambda: _all(wrapped, 1))
        assert wrapped.guard.hooked_blocks == ()
        assert state_of(wrapped) == before
    assert _kinds(wanted[0]) == {"allow", "guide"}
    for got, expected in zip(found, wanted, strict=True):
        _assert_equal(got, expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_thread_that_stops_half_way_again_and_again_does_not_disturb_the_other(error):
    def stopping(wrapped):
        stops = 0
        for number, (batch, _) in enumerate(list(_batches(1))[:10]):

            def act(step, last=number % 3):
                if step == last:
                    raise error

            try:
                run(wrapped, batch, act=act, max_new_tokens=6, min_new_tokens=6)
            except error:
                stops += 1
        return [stops]

    chosen = list(_batches(0))[:10]
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:
        before = state_of(wrapped)
        wanted = [_generate(wrapped, batch, settings) for batch, settings in chosen]
        found = _together(
            lambda: [_generate(wrapped, batch, settings) for batch, settings in chosen], lambda: stopping(wrapped)
        )
        assert wrapped.guard.hooked_blocks == ()
        assert state_of(wrapped) == before
        assert found[1] == [10]
        _assert_equal(found[0], wanted)
        with pytest.raises(UnguidedForwardError):
            wrapped(**prompts(1))


def test_an_unguided_block_in_one_thread_opens_nothing_in_the_other():
    batch = prompts(8)
    plain = run(shared_model(), batch)
    assert max(scores_of(shared_model(), batch)) > splitting_threshold()
    with guarded(shared_model(), policy(splitting_threshold())) as wrapped:
        wanted = _generate(wrapped, batch, {"max_new_tokens": 12})

        def bypassing():
            with wrapped.guard.unguided("comparison in a test"):
                return [run(wrapped, batch)[0] for _ in range(10)]

        found = _together(bypassing, lambda: [_generate(wrapped, batch, {"max_new_tokens": 12}) for _ in range(10)])
    assert all(torch.equal(tokens, plain[0]) for tokens in found[0])
    _assert_equal(found[1], [wanted] * 10)
    assert not torch.equal(wanted[0], plain[0])
