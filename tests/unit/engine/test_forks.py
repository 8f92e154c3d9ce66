"""Rows of a cache that go several ways."""

from __future__ import annotations

import pytest
import torch
from tests.guarded_models import fresh_model
from transformers import DynamicCache, StaticCache

from steerguard.engine.cache_kinds import states
from steerguard.engine.forks import Mark, fork, kept_bytes, row_of, unforkable

CLASSES = ("llama", "gemma2", "qwen3_next", "lfm2")
"""Full attention, windows, linear attention beside attention, convolutions."""


@torch.no_grad()
def _filled(architecture, rows=3, columns=11):
    model = fresh_model(architecture)
    cache = DynamicCache(config=model.config)
    ids = torch.arange(rows * columns).reshape(rows, columns) % 40 + 5
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    return model, cache


@torch.no_grad()
def _step(model, cache, tokens):
    return model(input_ids=torch.tensor(tokens)[:, None], past_key_values=cache, use_cache=True).logits[:, -1]


def _copied(cache):
    return [state.clone() for state in states(cache)]


def _same(cache, held):
    return all(torch.equal(one, other) for one, other in zip(states(cache), held, strict=True))


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_row_is_a_cache_of_its_own(architecture):
    model, cache = _filled(architecture)
    held = _copied(cache)
    taken = row_of(cache, 1)
    together = _step(model, row_of(cache, 2), [9])
    alone = _step(model, taken, [9])
    assert _same(cache, held)
    assert taken.get_seq_length() == cache.get_seq_length() + 1
    assert torch.allclose(_step(model, cache, [9, 9, 9])[1:], torch.cat([alone, together]), atol=1e-5)


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_fork_copies_the_rows_that_prefixes_lie_in(architecture):
    model, cache = _filled(architecture)
    other = row_of(cache, 0)
    expected = torch.cat([_step(model, row_of(cache, row), [token]) for row, token in [(2, 5), (2, 6), (0, 7)]])
    # Two prefixes, in rows 2 and 0; the first is copied twice.
    fork(cache, torch.tensor([2, 0]), torch.tensor([0, 0, 1]))
    assert torch.allclose(_step(model, cache, [5, 6, 7]), expected, atol=1e-5)
    assert other.get_seq_length() == 11


@pytest.mark.parametrize("architecture", CLASSES)
@pytest.mark.parametrize("columns", [3, 11])
def test_a_mark_goes_back_any_number_of_times(architecture, columns):
    model, cache = _filled(architecture, columns=columns)
    held, mark = _copied(cache), Mark(cache)
    found = []
    for _ in range(3):
        found.append(torch.stack([_step(model, cache, [token] * 3) for token in range(5, 15)]))
        mark.restore(cache)
        assert cache.get_seq_length() == columns
        assert _same(cache, held)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("architecture", CLASSES)
def test_a_mark_of_all_rows_brings_one_of_them_back(architecture):
    model, cache = _filled(architecture)
    mark, expected = Mark(cache), _step(model, row_of(cache, 1), [8])
    for token in range(5, 15):
        _step(model, cache, [token] * 3)
    taken = row_of(cache, 1)
    mark.row(1).restore(taken)
    assert taken.get_seq_length() == 11
    assert torch.allclose(_step(model, taken, [8]), expected, atol=1e-6)


def test_what_does_not_fork_is_named():
    model, cache = _filled("llama")
    assert unforkable(cache) is None
    assert "StaticCache" in unforkable(StaticCache(config=model.config, max_cache_len=8))
    assert "offloaded" in unforkable(DynamicCache(config=model.config, offloading=True))

    class DynamicLayer:
        """Somebody else's, of a known name."""

    cache.layers[0] = DynamicLayer()
    assert "DynamicLayer" in unforkable(cache)
    assert "Derived" in unforkable(type("Derived", (DynamicCache,), {})())


def test_the_bytes_of_a_cache_are_those_of_its_columns():
    model, cache = _filled("llama", rows=2, columns=7)
    heads = model.config.num_key_value_heads * model.config.hidden_size // model.config.num_attention_heads
    assert kept_bytes(cache) == model.config.num_hidden_layers * 2 * 2 * 7 * heads * 4
