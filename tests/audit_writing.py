"""What tests of a log that is being written give it, and wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from steerguard.audit.settings import CheckpointSettings, Durability
from steerguard.errors import AuditSinkError
from steerguard.signing.keys import SigningKey

SIGNER = SigningKey(bytes([3]) * 32)
OTHER = SigningKey(bytes([4]) * 32)
NEVER = Durability(mode="never")


def settings(**changes: Any) -> CheckpointSettings:
    """Settings with the signer of these tests."""
    return CheckpointSettings(**{"signer": SIGNER, **changes})


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a condition holds; it must within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


class Flaky:
    """A copy of checkpoints that fails as long as it is told to."""

    def __init__(self) -> None:
        self.down = True
        self.notes: list[bytes] = []

    def publish(self, log: str, note: bytes) -> None:
        """Take a note, or say that the place is down."""
        self.notes.append(note)
        if self.down:
            raise AuditSinkError("The other place is down.")
