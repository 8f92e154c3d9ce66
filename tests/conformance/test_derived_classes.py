"""What happens to a wrapped model whose class, or whose `forward`, something else takes over; and to it after `unwrap`."""

from __future__ import annotations

import pytest
from accelerate.hooks import ModelHook, add_hook_to_module
from tests.guarded_models import fresh_model, guarded, memory_log, policy, prompts, registry_for, run, tokenizer

import steerguard
from steerguard.errors import AlreadyWrappedError, NotWrappedError, WrapError
from steerguard.testing import MemorySink

BATCH = prompts(2)


def test_a_model_that_accelerate_hooked_while_it_was_wrapped_generates_after_unwrap():
    model = fresh_model()
    plain, _ = run(model, BATCH)
    with guarded(model, policy(1e6)) as wrapped:
        add_hook_to_module(wrapped, ModelHook())
    assert "forward" in vars(model)
    found, _ = run(model, BATCH)
    assert found.tolist() == plain.tolist()


def test_a_model_of_a_derived_class_is_guarded_and_cannot_be_unwrapped_or_wrapped_again():
    model, sink = fresh_model(), MemorySink()
    with guarded(model, policy(1e6), audit=memory_log(sink)) as wrapped:
        guarded_class = type(wrapped)
        wrapped.__class__ = type("Sharded", (guarded_class,), {})
        with wrapped.guard.collect() as reports:
            wrapped.generate(**BATCH, max_new_tokens=2)
        assert len(reports) == 2
        records = len(sink.lines)
        with pytest.raises(WrapError, match="derived from the guarded one") as caught:
            steerguard.unwrap(wrapped)
        assert not isinstance(caught.value, NotWrappedError)
        assert caught.value.found == "Sharded"
        assert len(sink.lines) == records
        with pytest.raises(AlreadyWrappedError, match="wrapped already"):
            steerguard.wrap(wrapped, policy(), tokenizer=tokenizer(), registry=registry_for(fresh_model()))
        with wrapped.guard.collect() as reports:
            wrapped.generate(**BATCH, max_new_tokens=2)
        assert len(reports) == 2
        # What derived the class is undone.
        wrapped.__class__ = guarded_class
    assert not hasattr(model, "guard")
