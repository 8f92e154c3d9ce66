"""One call as the audit log tells of it: its id, how far it has come, and how its time is split."""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CallKind = Literal["generate", "check", "forward"]
CallStage = Literal["prompt", "detect", "guide", "generate"]
"""How far a call has come.

`prompt`: its arguments are checked and its prompt is prepared.
`detect`: the prompt is read, up to the verdicts.
`generate`: an answer is written, scored or finished.
`guide`: a search looks for an answer.
"""


class CallTrace:
    """Id, stage and time of one call. For one thread; reads a clock and asks no device.

    The time of a call belongs to the guard, except inside `outside`, where it belongs to the app and its libraries.
    The clock is that of the host: what a device still computes when a library returns counts for whoever waits for it.

    Args:
        kind: what was called.
        clock: monotonic, in nanoseconds.
    """

    def __init__(self, kind: CallKind, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.kind = kind
        self.request = secrets.token_hex(16)
        """Id that all records of the call share, 32 hexadecimal digits."""
        self.stage: CallStage = "prompt"
        self.row: int | None = None
        """The row that is worked on alone, as a search does; None while all are."""
        self._clock = clock
        self._began = self._since = clock()
        self._guard_ns = 0
        self._guards = True

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Count the time inside the block for the app and its libraries."""
        before = self._switch(guards=False)
        try:
            yield
        finally:
            self._switch(guards=before)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Count the time inside the block for the guard, within a block that does not."""
        before = self._switch(guards=True)
        try:
            yield
        finally:
            self._switch(guards=before)

    def microseconds(self) -> tuple[int, int]:
        """Return how long the call has taken, and how much of that was the guard's time."""
        self._switch(guards=self._guards)
        return (self._since - self._began) // 1000, self._guard_ns // 1000

    def _switch(self, *, guards: bool) -> bool:
        """Let the time count for the guard or not from now on; return what it counted for."""
        now, before = self._clock(), self._guards
        if before:
            self._guard_ns += now - self._since
        self._since, self._guards = now, guards
        return before
