"""Syncing a log while others go on writing to it: through a descriptor of its own, so that nobody waits for the medium."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from steerguard.audit.writing.segments import Segments

if TYPE_CHECKING:
    from steerguard.audit.privacy.sealed_store import SealedStore


class BackgroundSync:
    """Syncs the segment and the sealed content of one log.

    Args:
        segments: of the log.
        sealed: its side store.
    """

    def __init__(self, segments: Segments, sealed: SealedStore | None) -> None:
        self._segments = segments
        self._sealed = sealed
        self._descriptor: int | None = None

    def begin(self) -> bool:
        """Take hold of the current segment, under the writer's lock; return whether that was possible.

        What was written before this call is durable when `run` has returned.
        """
        try:
            self._descriptor = self._segments.duplicate()
        except OSError:
            # There are too many open files, or the segment was removed or moved: a sync under the lock will tell.
            return False
        return True

    def run(self) -> None:
        """Wait for the medium, outside of the writer's lock.

        Raises:
            AuditSinkError: the medium reported an error, or a file was removed.
        """
        descriptor = self._descriptor
        if descriptor is None:
            return
        try:
            if self._sealed is not None:
                self._sealed.sync()
            self._segments.sync_duplicate(descriptor)
        finally:
            # In this order: a child that is forked in between must not close a number that means another file by then.
            self._descriptor = None
            os.close(descriptor)

    def abandon(self) -> None:
        """Close what the parent process was syncing through when it forked."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
