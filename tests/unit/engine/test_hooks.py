"""Reference-counted hooks."""

from __future__ import annotations

import threading

import pytest
from torch import nn

from steerguard.engine.hooks import BlockHooks


def _hooks(count=3):
    blocks = [nn.Identity() for _ in range(count)]
    return BlockHooks(object(), blocks), blocks


def _installed(blocks):
    return [len(block._forward_hooks) for block in blocks]


def test_a_block_carries_one_hook_whatever_the_number_of_users():
    hooks, blocks = _hooks()
    hooks.acquire([0, 1])
    hooks.acquire([1, 2])
    assert _installed(blocks) == [1, 1, 1]
    hooks.release([0, 1])
    assert _installed(blocks) == [0, 1, 1]
    assert hooks.installed == (1, 2)
    hooks.release([1, 2])
    assert _installed(blocks) == [0, 0, 0]
    assert hooks.installed == ()


def test_acquiring_is_all_or_nothing():
    hooks, blocks = _hooks()
    with pytest.raises(IndexError):
        hooks.acquire([0, 1, 9])
    assert _installed(blocks) == [0, 0, 0]
    assert hooks.installed == ()


def test_many_threads_leave_nothing_behind():
    hooks, blocks = _hooks()

    def work():
        for _ in range(200):
            hooks.acquire([0, 2])
            hooks.release([0])
            hooks.release([2])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _installed(blocks) == [0, 0, 0]


def test_a_hook_is_inert_outside_a_request():
    hooks, blocks = _hooks()
    hooks.acquire([0])
    assert blocks[0]("unchanged") == "unchanged"
    hooks.release([0])
