"""Where an evaluation says how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What an evaluation tells while it runs; units are token positions, so that long prompts weigh more."""

    def note(self, text: str) -> None:
        """Say what is done apart from answering; no prompt text."""

    def start(self, total: int, done: int) -> None:
        """Begin to answer: units in all, and units that an earlier start has done."""

    def advance(self, units: int, text: str) -> None:
        """Count one batch; the text names its run and set."""


class SilentProgress:
    """Says nothing."""

    def note(self, text: str) -> None:
        """Ignore the text."""

    def start(self, total: int, done: int) -> None:
        """Ignore the numbers."""

    def advance(self, units: int, text: str) -> None:
        """Ignore the batch."""
