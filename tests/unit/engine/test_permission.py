"""Permission to run the model ends with what it was given for, and belongs to one thread and one task."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest
import torch
from tests.guarded_models import guarded, policy, prompts, run, shared_model
from transformers import LogitsProcessor, LogitsProcessorList

from steerguard.errors import UnguidedForwardError, UnsupportedGenerationError


def _suspended(guard):
    with guard.unguided("a generator of the app"):
        yield


def _refused(wrapped):
    with pytest.raises(UnguidedForwardError):
        wrapped(**prompts(1))
    return not wrapped.guard.allows_unguided()


def test_overlapping_generators_leave_nothing_open():
    with guarded(shared_model(), policy()) as wrapped:
        first, second = _suspended(wrapped.guard), _suspended(wrapped.guard)
        next(first)
        next(second)
        first.close()
        second.close()
        assert _refused(wrapped)


def test_a_generator_closed_in_another_context_ends_its_permission():
    with guarded(shared_model(), policy()) as wrapped:
        generator = _suspended(wrapped.guard)
        next(generator)
        contextvars.copy_context().run(generator.close)
        assert _refused(wrapped)


def test_a_task_started_inside_the_block_has_no_permission():
    async def main(wrapped):
        async def later():
            await asyncio.sleep(0)
            return _refused(wrapped)

        with wrapped.guard.unguided("the task of the app"):
            inside = asyncio.create_task(later())
            assert await inside
            assert not await asyncio.to_thread(wrapped.guard.allows_unguided)
            assert wrapped.guard.allows_unguided()

    with guarded(shared_model(), policy()) as wrapped:
        asyncio.run(main(wrapped))


def test_a_copied_context_of_a_finished_request_permits_nothing():
    contexts = []
    with guarded(shared_model(), policy()) as wrapped:
        run(wrapped, prompts(2), act=lambda _step: contexts.append(contextvars.copy_context()))
        assert contexts
        for context in contexts:
            assert context.run(_refused, wrapped)


def test_a_thread_with_a_copied_context_of_a_running_request_is_refused():
    found = []

    def act(_step):
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: found.append(context.run(_refused, wrapped)))
        thread.start()
        thread.join()

    with guarded(shared_model(), policy()) as wrapped:
        run(wrapped, prompts(2), act=act)
    assert found
    assert all(found)


class _Calls(LogitsProcessor):
    """A processor that answers with the logits of another prompt."""

    def __init__(self, model):
        self.model = model

    def __call__(self, input_ids, scores):
        return self.model(torch.ones_like(input_ids)).logits[:, -1]


def test_a_processor_of_the_app_cannot_run_the_model():
    with guarded(shared_model(), policy(1e6)) as wrapped:
        with pytest.raises(UnguidedForwardError):
            wrapped.generate(**prompts(2), max_new_tokens=3, logits_processor=LogitsProcessorList([_Calls(wrapped)]))
        run(wrapped, prompts(2))


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_a_bypass_needs_a_reason(reason):
    with (
        guarded(shared_model(), policy()) as wrapped,
        pytest.raises(UnsupportedGenerationError, match="reason"),
        wrapped.guard.unguided(reason),
    ):
        raise AssertionError
