"""One call: its id, and how its time is split between the guard and what it stands around."""

from __future__ import annotations

import re

import pytest

from steerguard.engine.call_trace import CallTrace


class _Clock:
    """A clock that stands until it is moved, in microseconds."""

    def __init__(self) -> None:
        self.now = 5_000

    def __call__(self) -> int:
        return self.now

    def pass_by(self, microseconds: int) -> None:
        self.now += microseconds * 1000


def test_the_time_of_a_call_is_the_guards_but_for_what_runs_outside():
    clock = _Clock()
    trace = CallTrace("generate", clock)
    clock.pass_by(3)
    with trace.outside():
        clock.pass_by(100)
        with trace.inside():
            clock.pass_by(7)
            with trace.outside():
                clock.pass_by(1000)
            clock.pass_by(11)
        clock.pass_by(100)
    clock.pass_by(13)
    assert trace.microseconds() == (3 + 100 + 7 + 1000 + 11 + 100 + 13, 3 + 7 + 11 + 13)
    clock.pass_by(1)
    assert trace.microseconds() == (1235, 35)


def test_an_error_gives_the_time_back():
    clock = _Clock()
    trace = CallTrace("forward", clock)

    def fail():
        with trace.outside():
            clock.pass_by(5)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    clock.pass_by(2)
    assert trace.microseconds() == (7, 2)


def test_a_question_in_the_middle_of_what_runs_outside_counts_for_nobody():
    clock = _Clock()
    trace = CallTrace("generate", clock)
    with trace.outside():
        clock.pass_by(5)
        assert trace.microseconds() == (5, 0)
        clock.pass_by(5)
    assert trace.microseconds() == (10, 0)


def test_every_call_has_an_id_of_its_own():
    found = {CallTrace("check").request for _ in range(50)}
    assert len(found) == 50
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in found)
