"""The watch of a running guard: a thread reads the lists of revocations, and requests look at what it read, in memory.

Invariants:
- A request never waits for a disk or a network: it looks at the newest lists that were accepted.
- A list is only ever followed by one with a higher sequence. A reader that fails, or brings an older list, another one
  of the same number or none at all, changes nothing.
- The age of the newest list decides whether it is stale, also where the thread is gone or its reader hangs.
- The thread holds no reference to the watch while it waits, so a watch that nobody uses any more ends its thread.
"""

from __future__ import annotations

import os
import threading
import weakref
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import structlog

from steerguard.policy.failure import Loosening
from steerguard.trust.findings import Finding, WatchedArtifact, strictest
from steerguard.trust.newest_lists import DatedList, NewestLists

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from datetime import timedelta

    from steerguard.policy.failure import FailureHandling
    from steerguard.registry.revocations import RevocationList

JOIN_SECONDS = 5.0
"""How long `close` waits for a read that is under way."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Running:
    """The thread of one process; a forked child has none until it asks."""

    pid: int
    thread: threading.Thread
    stop: threading.Event


class RevocationWatch:
    """Says what speaks against the artifacts of a guard, from lists that a thread reads again and again.

    The thread is a daemon. It starts with the first question, in a forked child with the first question there, and ends
    with `close` or when the watch is collected.

    Args:
        read: returns the present list of one registry, verified, None where it has none; may use disk and network.
        known: the lists that the artifacts were admitted by.
        registries: registries that are read, and that must have a list; one without a list counts as stale.
        every: seconds from the end of one read to the next, above 0.
        max_age: how old a list may be, counted from its issue; None for as long as it has not expired.
        on_stale: `refuse`, or a loosening with a reason and its last day (UTC).
        now: the clock, with time zone.
    """

    def __init__(
        self,
        read: Callable[[str], RevocationList | None],
        *,
        known: Mapping[str, RevocationList],
        registries: Collection[str],
        every: float,
        max_age: timedelta | None,
        on_stale: FailureHandling = "refuse",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._read = read
        self._registries = tuple(sorted(registries))
        self._every = every
        self._max_age = max_age
        self._on_stale = on_stale
        self._now = now
        held = {registry: DatedList.of(document) for registry, document in known.items()}
        self._lists = NewestLists.of(registries, held)
        self._locks: dict[int, threading.Lock] = {}
        """By process id, so that no forked child waits for a lock that a thread of its parent held."""
        self._running: _Running | None = None
        self._finalizer: weakref.finalize[..., RevocationWatch] | None = None
        self._closed = False
        self.failure: Exception | None = None
        """Why the thread's last read brought nothing; None after one that succeeded."""

    def against(self, artifacts: Iterable[WatchedArtifact]) -> tuple[Finding, ...]:
        """Return what speaks against these artifacts at this moment, at most one finding for each; memory only.

        A stale list speaks against every artifact: nobody knows what it would say by now.

        Args:
            artifacts: what one request uses.
        """
        if self._needs_thread():
            self._start()
        lists, now = self._lists, self._now()
        stale = lists.stale(now, self._max_age)
        found = [
            strictest((lists.revoked(one), None if stale is None else self._as_stale(one, lists, stale, now)))
            for one in artifacts
        ]
        return tuple(finding for finding in found if finding is not None)

    def refresh(self) -> None:
        """Read every list now, in the calling thread, and accept those that are newer.

        What is known stays in force where a registry fails, and its failure keeps no other list away.

        Raises:
            RollbackError: a list is older than the one that is known, or another one of the same number.
            SignatureError: a list is that of another registry.
            Exception: whatever the reader raises; of several failures the first.
        """
        failures: list[Exception] = []
        for registry in self._registries:
            try:
                found = self._read(registry)
                if found is not None:
                    with self._lock:
                        self._lists = self._lists.followed_by(registry, found)
            except Exception as error:  # noqa: BLE001 - a reader may raise anything, and the other lists count all the same
                failures.append(error)
        if failures:
            raise failures[0]

    def close(self) -> None:
        """End the thread, and wait for it; one whose read takes longer than `JOIN_SECONDS` ends with that read.

        The watch still answers from memory, and starts no thread any more.
        """
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is None or running.pid != os.getpid():
            return
        running.stop.set()
        if running.thread is not threading.current_thread():
            running.thread.join(JOIN_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether the thread of this process lives."""
        running = self._running
        return running is not None and running.pid == os.getpid() and running.thread.is_alive()

    @property
    def _lock(self) -> threading.Lock:
        # One operation of a dictionary: two threads get the same lock.
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _needs_thread(self) -> bool:
        return not (self._closed or self.is_running)

    def _start(self) -> None:
        with self._lock:
            if not self._needs_thread():
                return
            if self._finalizer is not None:
                self._finalizer.detach()
            stop = threading.Event()
            thread = threading.Thread(
                target=_watch,
                args=(weakref.ref(self), stop, self._every),
                name="steerguard-revocations",
                daemon=True,
            )
            thread.start()
            self._running = _Running(pid=os.getpid(), thread=thread, stop=stop)
            self._finalizer = weakref.finalize(self, _end, os.getpid(), stop)
            self._finalizer.atexit = False

    def _refresh_or_note(self) -> None:
        """Read the lists as `refresh` does; keep a failure, and log the name of one that is new."""
        try:
            self.refresh()
        except Exception as error:  # noqa: BLE001 - as above; the age of the list decides what follows
            if type(self.failure) is not type(error):
                structlog.get_logger("steerguard").warning("revocations_not_read", error=type(error).__name__)
            self.failure = error
        else:
            self.failure = None

    def _as_stale(self, artifact: WatchedArtifact, lists: NewestLists, registry: str, now: datetime) -> Finding:
        held, allowed = lists.by_registry.get(registry), None
        if isinstance(self._on_stale, Loosening) and now.astimezone(UTC).date() <= self._on_stale.expires:
            allowed = self._on_stale.reason
        return Finding(
            artifact=artifact,
            registry=registry,
            state="stale",
            action="refuse" if allowed is None else "warn",
            sequence=None if held is None else held.document.sequence,
            allowed=allowed,
        )


def _watch(watch: weakref.ref[RevocationWatch], stop: threading.Event, every: float) -> None:
    while not stop.is_set():
        present = watch()
        if present is None:
            return
        present._refresh_or_note()  # noqa: SLF001 - same module
        del present
        stop.wait(every)


def _end(pid: int, stop: threading.Event) -> None:
    """Tell the thread of a collected watch to end; a copy in a forked child has no thread."""
    if os.getpid() == pid:
        stop.set()
