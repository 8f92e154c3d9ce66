"""The records of caches: known by identity, kept weakly, sealed by the tensors that a cache holds."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache

from steerguard.engine.own_caches import Columns, OwnCaches, columns_of
from steerguard.errors import UnsupportedGenerationError

COLUMNS = 3


def _filled(rows=2):
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.ones(rows, 1, COLUMNS, 4), torch.ones(rows, 1, COLUMNS, 4), layer)
    return cache


def _columns(rows=2):
    shown = torch.ones(rows, COLUMNS, dtype=torch.bool)
    return Columns(ids=shown.long(), mask=shown, in_mean=shown)


def _begun(caches, cache, **named):
    """What a turn may go on behind."""
    with caches.turn(cache, **{"width": COLUMNS + 1, **named}) as turn:
        columns = turn._columns
        caches.keep(cache, columns)
    return columns


def test_a_call_without_a_cache_has_nothing_to_settle():
    with OwnCaches().turn(None) as turn:
        assert turn.cache is None
        turn.start_over()


def test_an_empty_cache_is_new_whatever_was_known_of_it():
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    cache.reset()
    with caches.turn(cache, width=1) as turn:
        assert turn._columns is None


def test_what_was_kept_comes_back_once_and_only_to_its_cache():
    caches, cache, columns = OwnCaches(), _filled(), _columns()
    caches.keep(cache, columns)
    assert _begun(caches, cache) is columns
    with pytest.raises(UnsupportedGenerationError, match="put there"), caches.turn(_filled(), width=9):
        pass
    with pytest.raises(UnsupportedGenerationError, match="put there"), OwnCaches().turn(cache, width=9):
        pass
    with caches.turn(cache, width=9):
        # A call that does not say what it left in the cache leaves it unknown.
        pass
    with pytest.raises(UnsupportedGenerationError, match="put there"), caches.turn(cache, width=9):
        pass


@pytest.mark.parametrize("kept", [True, False])
def test_a_cache_that_must_start_over_is_empty_before_the_call(kept):
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns() if kept else None)
    with caches.turn(cache, width=9, may_continue=not kept):
        assert cache.get_seq_length() == 0


def test_an_outdated_record_is_still_ours_and_starts_over():
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    caches.outdate()
    assert _begun(caches, cache) is None
    assert cache.get_seq_length() == 0


def test_a_forgotten_cache_is_unknown():
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    caches.forget()
    with pytest.raises(UnsupportedGenerationError, match="put there"), caches.turn(cache, width=9):
        pass


def test_a_record_keeps_neither_its_cache_nor_its_tensors_alive():
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    seen, state = weakref.ref(cache), weakref.ref(cache.layers[0].keys)
    del cache
    gc.collect()
    assert seen() is None
    assert state() is None
    assert not caches._records


def test_one_call_at_a_time_and_the_next_one_after_it():
    caches, cache = OwnCaches(), DynamicCache()
    with caches.turn(cache, width=1):
        with pytest.raises(UnsupportedGenerationError, match="another call"), caches.turn(cache, width=1):
            pass
        with caches.turn(DynamicCache(), width=1):
            pass
    with caches.turn(cache, width=1):
        pass


def test_a_failed_call_empties_its_cache_and_a_refused_one_does_not():
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    with pytest.raises(UnsupportedGenerationError, match="not longer"), caches.turn(cache, width=COLUMNS):
        pass
    assert cache.get_seq_length() == COLUMNS
    with pytest.raises(KeyboardInterrupt), caches.turn(cache, width=9):
        raise KeyboardInterrupt
    assert cache.get_seq_length() == 0


@pytest.mark.parametrize("width", [None, 0, COLUMNS])
def test_a_prompt_that_is_not_longer_than_the_cache_is_refused(width):
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    with pytest.raises(UnsupportedGenerationError) as caught, caches.turn(cache, width=width):
        pass
    assert caught.value.found == f"{width or 0} columns"


def test_a_state_that_was_replaced_by_an_equal_one_is_noticed():
    caches, cache = OwnCaches(), _filled()
    caches.keep(cache, _columns())
    cache.layers[1].keys = cache.layers[1].keys.clone()
    with pytest.raises(UnsupportedGenerationError, match="changed since"), caches.turn(cache, width=9):
        pass


def test_the_columns_of_a_run_are_the_tokens_that_were_fed():
    sequences = torch.tensor([[0, 5, 6, 7], [4, 5, 6, 8]])
    prompt_mask = torch.tensor([[False, True], [True, True]])
    sums = {1: torch.ones(2, 4)}
    request = SimpleNamespace(
        prompt_mask=prompt_mask, mean_mask=~prompt_mask, prompt_states=SimpleNamespace(totals=sums)
    )
    found = columns_of(_filled(), sequences, request)
    assert found.in_mean.tolist() == [[True, False], [False, False]]
    assert found.sums == sums
    assert found.count == COLUMNS
    assert found.ids.tolist() == [[0, 5, 6], [4, 5, 6]]
    assert found.mask.tolist() == [[False, True, True], [True, True, True]]
    sequences[0, 0] = 9
    assert found.ids[0, 0] == 0
