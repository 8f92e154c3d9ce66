"""The background thread of a log: it syncs and signs when the time for it comes, also when no record comes any more."""

from __future__ import annotations

import threading
from collections.abc import Callable
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


class Keeper:
    """A daemon thread that is started on first use and ends with `stop`, with its process, and in no forked child.

    Args:
        kept: what it looks after. The thread keeps it alive, so its owner must stop the keeper.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._at_end: Callable[[], None] | None = None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the keeper's thread: garbage is collected in any thread."""
        return self._thread is threading.current_thread()

    def wake(self) -> bool:
        """Let the thread look again how long it may sleep; return whether there is a thread."""
        if not self._is_running and not self._start():
            return False
        self._wake.set()
        return True

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped = True
        self._wake.set()

    def join(self) -> None:
        """Wait for the end of the thread, unless this is it."""
        if self._thread is not None and self._is_running and not self.is_current:
            self._thread.join(_STOP_SECONDS)

    def end_with(self, function: Callable[[], None]) -> None:
        """End the thread, which then calls a function. For a caller in the thread itself, which may hold locks."""
        self._at_end = function
        self._stopped = True

    @property
    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name=f"steerguard-audit-{self._kept.log_id}", daemon=True)
        # Before the start: an interrupt during it leaves a thread that runs.
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:
            # The system has no thread left, or the interpreter is ending.
            self._thread = None
            return False
        return True

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(self._kept.seconds_left())
            self._wake.clear()
            if not self._stopped:
                self._kept.tend()
        if self._at_end is not None:
            self._at_end()
