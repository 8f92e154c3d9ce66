"""What the hub was asked: one entry for each request, without tokens and bodies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Exchange:
    """One request that the hub saw, and how it answered."""

    method: str
    path: str
    """Decoded, without the query."""

    query: str
    """As sent; empty for the addresses of uploads and redirects, whose tickets stand for a token."""

    range: str | None
    """The header `Range`."""

    user: str | None
    """Name of the account; None for a request without a token, or with one that nobody has."""

    status: int | None
    """None where the connection ended without an answer."""

    @property
    def line(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"


class Journal:
    """The requests in the order in which the hub took them up; safe to use from several threads.

    Args:
        listener: called with each of them, in the thread that serves it.
    """

    def __init__(self, listener: Callable[[Exchange], None] | None = None) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._exchanges: list[Exchange] = []

    def add(self, exchange: Exchange) -> None:
        """Remember a request."""
        with self._lock:
            self._exchanges.append(exchange)
        if self._listener is not None:
            self._listener(exchange)

    def exchanges(self) -> tuple[Exchange, ...]:
        """All requests since the start or the last `forget`."""
        with self._lock:
            return tuple(self._exchanges)

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._exchanges.clear()
