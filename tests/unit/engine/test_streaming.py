"""The guarded streamer by itself: what it holds back, and that a stream ends exactly once."""

from __future__ import annotations

import functools

import pytest
import torch

from steerguard.engine.streaming import GuardedStreamer, guard_streamer
from steerguard.errors import NonFiniteHiddenStateError, UnsupportedGenerationError

PROMPT = torch.tensor([[5, 6, 7]])


class _Inner:
    def __init__(self):
        self.got = []

    def put(self, value):
        self.got.append(value.tolist())

    def end(self):
        self.got.append("end")


class _Request:
    """The one thing of a request that a streamer touches."""

    in_callbacks = False


def _started(strategy, templates=None, broken=set):
    inner = _Inner()
    streamer = GuardedStreamer(inner)
    streamer.put(PROMPT)
    streamer.start(_Request(), strategy, pad=0)
    if templates is not None:
        streamer.decided(templates, broken)
    return inner, streamer


@pytest.mark.parametrize("strategy", ["buffer", "window", "unsafe_passthrough"])
def test_no_token_leaves_before_the_verdict_is_known(strategy):
    inner, streamer = _started(strategy)
    streamer.put(torch.tensor([9]))
    streamer.end()
    assert inner.got == [[[5, 6, 7]]]


def test_a_buffered_answer_leaves_when_it_is_finished():
    inner, streamer = _started("buffer", {})
    for token in (9, 10):
        streamer.put(torch.tensor([token]))
    answers = torch.tensor([[9, 10]])
    streamer.check(answers)
    assert inner.got[1:] == []
    streamer.finish(answers)
    assert inner.got[1:] == [[9], [10], "end"]


@pytest.mark.parametrize("strategy", ["window", "unsafe_passthrough"])
def test_refused_rows_are_streamed_from_the_template_beside_the_others(strategy):
    inner, streamer = _started(strategy, {1: (40, 41)})
    for tokens in ([9, 0], [10, 0], [11, 0]):
        streamer.put(torch.tensor(tokens))
    answers = torch.tensor([[9, 10, 11, 12], [40, 41, 0, 0]])
    streamer.check(answers)
    streamer.finish(answers)
    assert inner.got[1:] == [[9, 40], [10, 41], [11, 0], [12, 0], "end"]


def test_window_ends_at_the_step_that_breaks_and_passthrough_at_the_end():
    broken = set()
    inner, streamer = _started("window", {}, lambda: broken)
    streamer.put(torch.tensor([9]))
    broken.add(0)
    with pytest.raises(NonFiniteHiddenStateError):
        streamer.put(torch.tensor([10]))
    assert inner.got[1:] == [[9]]
    inner, streamer = _started("unsafe_passthrough", {}, lambda: broken)
    streamer.put(torch.tensor([9]))
    with pytest.raises(NonFiniteHiddenStateError):
        streamer.check(torch.tensor([[40]]))
    with pytest.raises(NonFiniteHiddenStateError):
        streamer.check(torch.zeros(1, 0, dtype=torch.int64))


def test_a_stream_ends_once():
    inner, streamer = _started("buffer", {})
    streamer.finish(torch.tensor([[9]]))
    streamer.fail(ValueError())
    assert inner.got.count("end") == 1
    inner, streamer = _started("buffer", {})
    streamer.fail(ValueError())
    streamer.fail(ValueError())
    assert inner.got.count("end") == 1


def test_no_forward_pass_is_permitted_inside_a_streamer_of_the_app():
    request, seen = _Request(), []

    class Looking(_Inner):
        def put(self, value):
            seen.append(request.in_callbacks)

    streamer = GuardedStreamer(Looking())
    streamer.put(PROMPT)
    streamer.start(request, "window", pad=0)
    streamer.decided({}, set)
    streamer.put(torch.tensor([9]))
    streamer.finish(torch.tensor([[9, 10]]))
    assert seen == [False, True, True]
    assert not request.in_callbacks


def _generate(_self, inputs=None, generation_config=None, streamer=None, **kwargs):
    return inputs, generation_config, streamer, kwargs


def test_the_streamer_is_found_by_name_and_by_position():
    original, inner = functools.partial(_generate, None), _Inner()
    for arguments, named in (((1, 2, inner), {"more": 3}), ((1, 2), {"streamer": inner, "more": 3})):
        streamer, positional, keywords = guard_streamer(original, arguments, named)
        found = original(*positional, **keywords)
        assert found == (1, 2, streamer, {"more": 3})
        assert isinstance(streamer, GuardedStreamer)
    assert guard_streamer(original, (1,), {"more": 3}) == (None, (1,), {"more": 3})
    with pytest.raises(UnsupportedGenerationError, match="streamer"):
        guard_streamer(original, (), {"streamer": "text"})
