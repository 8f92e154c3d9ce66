"""Whether a signed document is the present one: not older than one seen before, not expired, not from the future."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from steerguard.artifacts.times import time_text
from steerguard.errors import RollbackError, StaleError

CLOCK_SKEW: Final = timedelta(minutes=10)
"""How far ahead of this machine's clock a document may be issued."""


def check_successor(
    new_sequence: int, seen_sequence: int | None, *, new_sha256: str, seen_sha256: str | None, where: str
) -> None:
    """Refuse a document that is older than one seen before, or another one with the same number.

    Args:
        new_sequence: sequence of the document that was read now.
        seen_sequence: highest sequence that was verified before; None when none was.
        new_sha256: hexadecimal digest of the payload that was read now; signatures may be added to one payload.
        seen_sha256: hexadecimal digest of the payload that was verified before.
        where: registry and file, for messages.

    Raises:
        RollbackError: the sequence went back, or two documents have the same sequence.
    """
    if seen_sequence is None:
        return
    if new_sequence < seen_sequence:
        raise RollbackError(
            "The registry shows an older state than one that was seen before.",
            where=where,
            expected=f"sequence {seen_sequence} or higher",
            found=f"sequence {new_sequence}",
            next_step="Ask the registry's owner; if they restored a backup, they must sign it again with a higher "
            "sequence.",
        )
    if new_sequence == seen_sequence and new_sha256 != seen_sha256:
        raise RollbackError(
            "The registry shows two different states with the same sequence.",
            where=where,
            expected=f"sequence {seen_sequence} with sha256 {seen_sha256}",
            found=f"sha256 {new_sha256}",
            next_step="Ask the registry's owner: whoever holds the key has signed two documents of the same number.",
        )


def check_fresh(
    issued: datetime, expires: datetime, now: datetime, *, where: str, max_age: timedelta | None = None
) -> None:
    """Refuse a document that has expired, is too old, or was issued in the future.

    Args:
        issued: time of issue.
        expires: the first moment at which the document no longer counts.
        now: the present, with a time zone.
        where: registry and file, for messages.
        max_age: the longest accepted time since the issue, where the reader sets one.

    Raises:
        StaleError: expired, older than `max_age`, or issued more than `CLOCK_SKEW` ahead of `now`.
    """
    if issued > now + CLOCK_SKEW:
        raise StaleError(
            "The document was issued in the future.",
            where=where,
            expected=f"issued at most {CLOCK_SKEW} after {time_text(now)}",
            found=time_text(issued),
            next_step="Set this machine's clock; if it is right, ask the registry's owner.",
        )
    if now >= expires:
        raise StaleError(
            "The document has expired.",
            where=where,
            expected=f"valid at {time_text(now)}",
            found=f"expired at {time_text(expires)}",
            next_step="Run `steerguard sync` with a network; if it stays so, the registry's owner must renew it.",
        )
    if max_age is not None and now - issued > max_age:
        raise StaleError(
            "The document is older than the reader accepts.",
            where=where,
            expected=f"issued at most {max_age} before {time_text(now)}",
            found=time_text(issued),
            next_step="Run `steerguard sync` with a network; if it stays so, the registry's owner must renew it.",
        )
