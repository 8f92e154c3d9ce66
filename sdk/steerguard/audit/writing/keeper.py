"""The background thread of a log: it syncs and signs when the time for it comes, also when no record comes any more."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

_STOP_SECONDS = 5.0


class Kept(Protocol):
    """What a keeper looks after."""

    @property
    def log_id(self) -> str:
        """Id of the log."""

    def seconds_left(self) -> float | None:
        """Return how long nothing needs to be done; None when nothing will be until it wakes the keeper."""

    def tend(self) -> None:
        """Do what is due. Raises nothing: what failed is due, and raised, at the next record."""


class _Bell:
    """What `threading.Event` is for, made of one lock: a ring that an interrupt cuts short leaves nothing held.

    The locks of an event are taken in Python code, where an interrupt fits between a lock and its block.
    """

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        """Let `wait` return, now or when it is called; several rings count as one."""
        # It was rung already.
        with suppress(RuntimeError):
            self._silent.release()

    def wait(self, seconds: float | None) -> None:
        """Wait for a ring, for at most so long; without a limit for None."""
        self._silent.acquire(timeout=-1 if seconds is None else min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class Keeper:
    """A daemon thread that is started on first use and ends with `stop`, with its process, and in no forked child.

    Args:
        kept: what it looks after. The thread keeps it alive, so its owner must stop the keeper.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._bell = _Bell()
        self._thread: threading.Thread | None = None
        self._ended = False
        """Whether the thread has. `Thread.is_alive` can say no of a thread that runs once an interrupt met it."""
        self._stopped = False
        self._at_end: Callable[[], None] | None = None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the keeper's thread: garbage is collected in any thread."""
        return self._thread is threading.current_thread()

    def wake(self) -> bool:
        """Let the thread look again how long it may sleep; return whether there is a thread."""
        if (self._thread is None or self._ended) and not self._start():
            return False
        self._bell.ring()
        return True

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped = True
        self._bell.ring()

    def join(self) -> None:
        """Wait for the end of the thread, unless this is it."""
        if self._thread is not None and not self.is_current:
            self._thread.join(_STOP_SECONDS)

    def end_with(self, function: Callable[[], None]) -> None:
        """End the thread, which then calls a function. For a caller in the thread itself, which may hold locks."""
        self._at_end = function
        self._stopped = True

    def _start(self) -> bool:
        handled, bell = sys.exception(), _Bell()
        name = f"steerguard-audit-{self._kept.log_id}"
        thread = threading.Thread(target=self._run, args=(bell,), name=name, daemon=True)
        try:
            self._bell, self._thread, self._ended = bell, thread, False
            thread.start()
        except BaseException as error:
            # If it runs all the same, it ends, since it sees that it is not the one.
            self._thread = None
            bell.ring()
            inner = error.__context__
            if not isinstance(error, RuntimeError):
                raise
            if inner is not handled and inner is not None and not isinstance(inner, Exception):
                # An interrupt between the steps of a start, which then fails at a lock of its own.
                raise inner from None
            # The system has no thread left, or the interpreter is ending.
            return False
        return True

    def _run(self, bell: _Bell) -> None:
        try:
            while self._goes_on():
                bell.wait(self._kept.seconds_left())
                if self._goes_on():
                    self._kept.tend()
            if self._at_end is not None and self.is_current:
                self._at_end()
        finally:
            if self.is_current:
                self._ended = True

    def _goes_on(self) -> bool:
        return self.is_current and not self._stopped
