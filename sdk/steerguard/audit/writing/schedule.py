"""What a log has to do when: syncs, checkpoints and rotation, by count, size and time.

Times are of the monotonic clock, in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from steerguard.audit.settings import CheckpointSettings, Durability, Rotation

NEVER: Final = float("inf")
GRACE_SECONDS: Final = 1.0
"""So much later than promised a record syncs itself when the background thread has not."""


class InBackground(NamedTuple):
    """What the background thread has to do now."""

    sync: bool
    sign: bool


class Schedule:
    """Keeps account of what is unsynced and what no checkpoint covers. Not thread-safe: used under the writer's lock.

    Args:
        durability: of the log.
        checkpoints: None when the log signs none.
        rotation: None when the log has no segments.
        wake: lets the background thread look again; returns whether there is one.
        seq: records that the log holds already.
    """

    def __init__(
        self,
        durability: Durability,
        checkpoints: CheckpointSettings | None,
        rotation: Rotation | None,
        *,
        wake: Callable[[], bool],
        seq: int,
    ) -> None:
        self._durability = durability
        self._interval = durability.mode == "interval"
        self._checkpoints = checkpoints
        self._wake = wake
        self._max_bytes: float = NEVER if rotation is None else rotation.max_bytes
        self._max_age: float = NEVER if rotation is None else rotation.max_age_seconds
        self._segment_since = time.monotonic()
        self._unsynced = 0
        self._unsynced_since: float | None = None
        self._uncovered_since: float | None = None
        self._background_at = 0.0
        self._sync_by = NEVER
        self._due_seq = NEVER
        self._due_at = NEVER
        self.covered(seq)

    def mark(self, *, durable: bool) -> bool:
        """Take note of a record that is about to be written; return whether it must be synced at once."""
        if self._uncovered_since is None and self._checkpoints is not None:
            try:
                self._uncovered_since = time.monotonic()
                self._plan()
                self._wake()
            except BaseException:
                # Nothing was written yet, and the next record has to wake the thread instead.
                self._uncovered_since = None
                self._plan()
                raise
        if durable:
            return True
        if self._interval:
            now = time.monotonic()
            if self._unsynced_since is None:
                try:
                    self._unsynced_since = now
                    self._sync_by = now + self._durability.seconds + GRACE_SECONDS
                    # Without a thread every record is synced at once.
                    return not self._wake()
                except BaseException:
                    self.synced()
                    raise
            return now > self._sync_by
        if self._durability.mode == "batch":
            self._unsynced += 1
            return self._unsynced >= self._durability.records
        return self._durability.mode == "always"

    def synced(self) -> None:
        """Take note that everything written so far is on the medium, or will be before anything else is promised."""
        self._unsynced = 0
        self._unsynced_since = None
        self._sync_by = NEVER

    def covered(self, seq: int) -> None:
        """Take note that no checkpoint is needed for the first `seq` records."""
        self._uncovered_since = None
        self._due_seq = NEVER if self._checkpoints is None else seq + self._checkpoints.every_records
        self._background_at = 0.0
        self._plan()

    def rotated(self) -> None:
        """Take note that a new segment has begun."""
        self._segment_since = time.monotonic()
        self._plan()

    def demand(self) -> None:
        """Make a checkpoint due before the next record."""
        self._due_seq = 0

    def postpone(self) -> None:
        """Let the background thread wait as long as between two checkpoints: it has just failed to make one."""
        if self._checkpoints is not None:
            self._background_at = time.monotonic() + self._checkpoints.every_seconds

    def is_due(self, seq: int, size: int) -> bool:
        """Return whether anything is due before the next record. Called for every record."""
        return seq >= self._due_seq or size >= self._max_bytes or time.monotonic() >= self._due_at

    def rotation_due(self, size: int) -> bool:
        """Return whether the current segment, of so many bytes, is full or old; an empty one is neither."""
        # Before log.open a slow start can outlast the age.
        return size > 0 and (size >= self._max_bytes or time.monotonic() >= self._segment_since + self._max_age)

    def checkpoint_due(self, seq: int) -> bool:
        """Return whether a checkpoint over `seq` records is due."""
        return seq >= self._due_seq or time.monotonic() >= self._sign_at

    def in_background(self) -> InBackground:
        """Return what the background thread has to do now."""
        now = time.monotonic()
        return InBackground(sync=now >= self._sync_at, sign=now >= max(self._sign_at, self._background_at))

    def seconds_left(self) -> float | None:
        """Return how long the background thread may sleep; None when it need not wake by itself."""
        at = min(self._sync_at, max(self._sign_at, self._background_at))
        return None if at == NEVER else max(0.0, at - time.monotonic())

    @property
    def _sync_at(self) -> float:
        since = self._unsynced_since
        return NEVER if since is None else since + self._durability.seconds

    @property
    def _sign_at(self) -> float:
        since = self._uncovered_since
        return NEVER if since is None or self._checkpoints is None else since + self._checkpoints.every_seconds

    def _plan(self) -> None:
        self._due_at = min(self._sign_at, self._segment_since + self._max_age)
