"""Caches that a guarded call refuses by name and leaves as they are, and what remains of a cache after a call."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from tests.cached_turns import (
    AT_THE_END,
    EVERYWHERE,
    NEVER,
    STEPS,
    TOLERANCE,
    agree,
    kept,
    middle,
    next_turn,
    turn_of,
    turns_of,
)
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
    split_of,
    state_of,
)

from steerguard.errors import AuditError, UnsupportedGenerationError


def _filled_unguided(wrapped, cache, _batch):
    with wrapped.guard.unguided("filling a cache in a test"):
        wrapped(**prompts(2), past_key_values=cache, use_cache=True)
    return cache


def _filled_guided(wrapped, cache):
    return next_turn(prompts(2), turn_of(wrapped, prompts(2), past_key_values=cache).tokens)


def _refilled(wrapped, cache, batch):
    """Emptied and filled by an unguided call, with as many columns as there were."""
    columns = cache.get_seq_length()
    cache.reset()
    with wrapped.guard.unguided("filling a cache in a test"):
        wrapped(input_ids=batch["input_ids"][:, :columns], past_key_values=cache, use_cache=True)
    assert cache.get_seq_length() == columns
    return cache


def _turned(_wrapped, cache, _batch):
    cache.reorder_cache(torch.tensor([1, 0]))
    return cache


def _selected(_wrapped, cache, _batch):
    cache.batch_select_indices(torch.tensor([0]))
    return cache


def _cropped(_wrapped, cache, _batch):
    cache.crop(-2)
    return cache


def _edited(_wrapped, cache, _batch):
    cache.layers[1].values.mul_(2.0)
    return cache


def _gone_on_unguided(wrapped, cache, batch):
    with wrapped.guard.unguided("one turn of a test"):
        wrapped.generate(**batch, past_key_values=cache, max_new_tokens=1)
    return cache


CHANGES = {
    "a copy": (lambda _wrapped, cache, _batch: copy.deepcopy(cache), "did not put there"),
    "a turn without guidance": (_gone_on_unguided, "changed since"),
    "filled again without guidance": (_refilled, "changed since"),
    "cropped": (_cropped, "changed since"),
    "rows exchanged": (_turned, "changed since"),
    "rows left out": (_selected, "changed since"),
    "edited": (_edited, "changed since"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_cache_that_was_changed_is_refused_by_name_and_left_as_it_is(name):
    change, words = CHANGES[name]
    model, cache = shared_model(), kept(shared_model())
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        batch = _filled_guided(wrapped, cache)
        changed = change(wrapped, cache, batch)
        _refused_and_left(wrapped, changed, next_turn(batch, batch["input_ids"]), words)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_a_cache_that_an_unguided_call_filled_is_refused_by_name(kind):
    model, cache = shared_model(), kept(shared_model(), kind)
    with guarded(model, policy(NEVER)) as wrapped:
        _filled_unguided(wrapped, cache, None)
        _refused_and_left(wrapped, cache, next_turn(prompts(2), prompts(2)["input_ids"], prompts(2)), "put there")


def test_a_cache_of_another_guard_is_refused_by_name():
    model, other, cache = shared_model(), fresh_model(seed=5), kept(shared_model())
    with guarded(other, policy(NEVER), registry=registry_for(other)) as wrapped:
        batch = _filled_guided(wrapped, cache)
    with guarded(model, policy(NEVER)) as wrapped:
        _refused_and_left(wrapped, cache, batch, "put there")


def test_a_layer_that_is_filled_behind_an_empty_one_is_seen():
    model, cache = shared_model(), kept(shared_model())
    with guarded(model, policy(NEVER)) as wrapped:
        batch = _filled_guided(wrapped, cache)
        cache.layers[0].reset()
        _refused_and_left(wrapped, cache, batch, "changed since")


def _refused_and_left(wrapped, cache, batch, words):
    held = [(layer.keys, None if layer.keys is None else layer.keys.clone()) for layer in cache.layers]
    with wrapped.guard.collect() as reports, pytest.raises(UnsupportedGenerationError, match=words) as caught:
        wrapped.generate(**batch, past_key_values=cache, max_new_tokens=2)
    assert reports == []
    assert "past_key_values" in caught.value.summary
    for layer, (keys, values) in zip(cache.layers, held, strict=True):
        assert layer.keys is keys
        assert keys is None or torch.equal(keys, values)


def test_tokens_that_only_go_on_where_the_cache_ends_are_refused_by_name():
    model, cache = shared_model(), kept(shared_model())
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        batch = _filled_guided(wrapped, cache)
        held = cache.get_seq_length()
        for columns in (1, held):
            new = {name: tensor[:, -columns:] for name, tensor in batch.items()}
            with pytest.raises(UnsupportedGenerationError, match="not longer") as caught:
                wrapped.generate(**new, past_key_values=cache, max_new_tokens=2)
            assert caught.value.found == f"{columns} columns"
            assert caught.value.expected == f"the whole conversation in `input_ids`, more than {held} columns"
        # Nothing was lost: the whole conversation still goes on.
        assert all(turn_of(wrapped, batch, past_key_values=cache).cached)


def test_the_number_of_rows_of_a_static_cache_is_fixed():
    model, cache = shared_model(), kept(shared_model(), "static")
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        batch = _filled_guided(wrapped, cache)
        with pytest.raises(UnsupportedGenerationError, match="number of rows"):
            wrapped.generate(**batch, past_key_values=cache, num_beams=2, max_new_tokens=2)
        agree(turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch))


def test_two_threads_cannot_use_one_cache_at_once():
    model, batch, cache = shared_model(), prompts(2), kept(shared_model())
    raised = []

    def beside(step):
        if step == 1:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    def other():
        with pytest.raises(UnsupportedGenerationError, match="another call") as caught:
            wrapped.generate(**batch, past_key_values=cache, max_new_tokens=2)
        raised.append(caught.value)

    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        alone, _ = run(wrapped, batch, max_new_tokens=STEPS)
        tokens, _ = run(wrapped, batch, past_key_values=cache, max_new_tokens=STEPS, act=beside)
        assert torch.equal(tokens, alone)
        assert len(raised) == 1
        assert all(turn_of(wrapped, next_turn(batch, tokens), past_key_values=cache).cached)


def test_a_failed_call_leaves_the_cache_empty():
    model, batch, cache = shared_model(), prompts(2), kept(shared_model())
    sink = FailingSink(OSError("full"))
    log = memory_log(sink)
    with guarded(model, policy(NEVER, settings=AT_THE_END), audit=log) as wrapped:
        sink.at = 0
        with pytest.raises(AuditError):
            wrapped.generate(**batch, past_key_values=cache, max_new_tokens=2)
        assert cache.get_seq_length() == 0
        wrapped.guard.use_audit(memory_log())

        def fail(step):
            raise KeyError(step)

        with pytest.raises(KeyError):
            run(wrapped, batch, past_key_values=cache, act=fail)
        assert cache.get_seq_length() == 0
        agree(turn_of(wrapped, batch, past_key_values=cache), turn_of(wrapped, batch))


def test_nothing_remains_but_what_the_guard_knows_and_unwrapping_ends_that():
    model, batch, cache, plain = shared_model(), prompts(2), kept(shared_model()), kept(shared_model())
    run(model, batch, past_key_values=plain, max_new_tokens=STEPS)
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        before = state_of(wrapped)
        following = next_turn(batch, turn_of(wrapped, batch, past_key_values=cache).tokens)
        assert state_of(wrapped) == before
    assert sorted(vars(cache)) == sorted(vars(plain))
    assert [sorted(vars(layer)) for layer in cache.layers] == [sorted(vars(layer)) for layer in plain.layers]
    with guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        _refused_and_left(wrapped, cache, following, "put there")


def test_no_message_carries_a_token_of_the_prompt():
    model, cache = shared_model(), kept(shared_model())
    with guarded(model, policy(NEVER)) as wrapped:
        batch = _filled_guided(wrapped, cache)
        with pytest.raises(UnsupportedGenerationError) as caught:
            wrapped.generate(**prompts(2), past_key_values=cache)
    assert "hello" not in str(caught.value)
    assert str(batch["input_ids"][0, -1].item()) not in str(caught.value).split()


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("settings", [AT_THE_END, EVERYWHERE])
def test_compiled_decode_steps_agree(settings, kind):
    model, batch, seen = fresh_model(), prompts(3), []
    document = policy(middle(shared_model(), batch, settings), settings=settings)
    with guarded(model, document, registry=registry_for(model), executor="compiled") as wrapped:
        wrapped.compile(backend="eager")
        cache, settled = kept(model, kind), {"max_new_tokens": STEPS, "min_new_tokens": STEPS}
        for _ in range(3):
            with wrapped.guard.collect() as reports:
                tokens, logits = run(wrapped, batch, past_key_values=cache, **settled)
                alone, expected = run(wrapped, batch, **settled)
            assert torch.equal(tokens, alone)
            assert all(torch.allclose(*pair, **TOLERANCE) for pair in zip(logits, expected, strict=True))
            assert [one.doses for one in reports[:3]] == [one.doses for one in reports[3:]]
            seen += [bool(one.doses) for one in reports]
            batch = next_turn(batch, tokens)
    assert True in seen
    assert False in seen


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_inference_mode_agrees(architecture):
    model = shared_model(architecture)
    with torch.inference_mode(), guarded(model, policy(NEVER, settings=AT_THE_END)) as wrapped:
        found = turns_of(wrapped, prompts(2), kept(model))
    for cached, alone in found:
        agree(cached, alone)
    assert all(found[1][0].cached)


def test_the_threshold_of_a_turn_is_that_of_the_whole_conversation():
    model, batch, cache = shared_model(), prompts(4), kept(shared_model())
    threshold = split_of(model, 4)
    with guarded(model, policy(threshold, "refuse")) as wrapped:
        found = turns_of(wrapped, batch, cache, turns=3, max_new_tokens=8)
    for cached, alone in found:
        agree(cached, alone)
    assert {report.applied for report in found[0][0].reports} == {"allow", "refuse"}
