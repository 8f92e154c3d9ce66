"""The clocks of a log: the monotonic one never runs backwards, and steps of the wall clock are pointed out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

CLOCK_SLACK_US: Final = 1_000_000
_SLEW: Final = 1000
"""A clock may be slewed by a few hundred parts per million; one thousandth is allowed."""
MAX_WARNINGS: Final = 20
_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - both ends of the difference are UTC
_LENGTH: Final = len("2026-11-23T08:00:00.000000Z")


class Clocks:
    """The two clocks of one log, from record to record."""

    def __init__(self) -> None:
        self.steps = 0
        """Steps of the wall clock so far."""
        self.warnings: list[str] = []
        """About the first of them."""
        self._begun = False
        self._mono = 0
        self._wall = 0
        self._second = ""
        self._second_us = 0

    def read(self, seq: int, t: str, mono: int) -> bool:
        """Take over the clocks of the next record; return whether the monotonic clock goes on.

        Args:
            seq: sequence number of the record.
            t: wall clock, as records write it.
            mono: microseconds of the monotonic clock.

        Raises:
            ValueError: `t` is no timestamp.
        """
        second = t[:19]
        if second != self._second:
            begun = datetime.fromisoformat(second)
            if begun.isoformat() != second:
                # Python reads further forms: weeks, offsets, no separators.
                raise ValueError
            self._second_us = round((begun - _EPOCH).total_seconds()) * 1_000_000
            self._second = second
        micros = t[20:26]
        if len(t) != _LENGTH or t[19] != "." or t[26] != "Z" or not (micros.isdigit() and micros.isascii()):
            raise ValueError
        wall = self._second_us + int(micros)
        elapsed = mono - self._mono
        step = wall - self._wall - elapsed
        if (step > CLOCK_SLACK_US or step < -CLOCK_SLACK_US) and self._begun:
            self._stepped(seq, step, elapsed)
        self._wall, self._mono, self._begun = wall, mono, True
        return elapsed >= 0

    @property
    def all_warnings(self) -> tuple[str, ...]:
        """What to say about all steps."""
        rest = self.steps - len(self.warnings)
        return (*self.warnings, *((f"{rest} further steps of the wall clock",) if rest else ()))

    def _stepped(self, seq: int, step: int, elapsed: int) -> None:
        if abs(step) <= CLOCK_SLACK_US + elapsed // _SLEW:
            return
        self.steps += 1
        if self.steps <= MAX_WARNINGS:
            self.warnings.append(
                f"the wall clock moved by {step / 1e6:+.1f} s against the monotonic clock before record {seq}: "
                "it was set, or the machine slept"
            )


def wall_seconds(t: str) -> float:
    """Return a timestamp of a record in seconds since 1970."""
    return datetime.fromisoformat(t).astimezone(UTC).timestamp()
