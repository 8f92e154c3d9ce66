"""Faults on demand: what to spoil, in which requests, how many times, and how often it has happened."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import unquote

from steerguard.testing.loopback_hub.messages import Answer, Request, refusal_answer
from steerguard.testing.loopback_hub.refusals import Refusal, conflict, gated_repository, not_allowed, not_signed_in

FaultKind = Literal[
    "unauthorized",
    "forbidden",
    "gated",
    "conflict",
    "stale_parent",
    "unavailable",
    "missing",
    "tamper",
    "truncate",
    "stale",
    "slow",
    "drop",
    "lost",
]
REFUSING: tuple[FaultKind, ...] = ("unauthorized", "forbidden", "gated", "conflict", "stale_parent", "unavailable")
COMMITS = "POST /api/*/commit/*"
FILES = "* /*/resolve/*"
MOVED_FILES = "* /loopback/objects/*"
WHERE_BY_DEFAULT: dict[FaultKind, tuple[str, ...]] = {
    "unauthorized": ("*",),
    "forbidden": ("*",),
    "gated": ("*",),
    "conflict": (COMMITS,),
    "stale_parent": (COMMITS,),
    "unavailable": ("*",),
    "missing": (FILES, MOVED_FILES),
    "tamper": (FILES, MOVED_FILES),
    "truncate": (FILES, MOVED_FILES),
    "stale": ("*",),
    "slow": ("GET /*/resolve/*", "GET /loopback/objects/*"),
    "drop": ("GET /*/resolve/*", "GET /loopback/objects/*"),
    "lost": (COMMITS,),
}


@dataclass(frozen=True)
class FaultSettings:
    """What a fault does and where."""

    kind: FaultKind
    match: str | None
    """A glob over the decoded path, or over method, blank and path where it holds a blank; None: where it makes sense."""

    times: int | None
    """How many requests it spoils; None: all until it is lifted."""

    seconds: float
    """Of `slow`: seconds that the body takes longer."""

    at: int | None
    """Byte of the file: the one that `tamper` changes, or the first that `truncate` and `drop` leave out; None: middle."""

    commit: str | None
    """Of `stale`: the commit that branches show; None: the one before the newest."""

    retry_after: int | None
    """Of `unavailable`: seconds in the header `Retry-After`, 0 or more; None: no such header."""

    def fits(self, method: str, path: str) -> bool:
        """Whether a request is one of those to be spoiled."""
        patterns = WHERE_BY_DEFAULT[self.kind] if self.match is None else (self.match,)
        return any(fnmatchcase(f"{method} {path}" if " " in pattern else path, pattern) for pattern in patterns)


class Fault:
    """A fault that was asked for: counts, and can be lifted."""

    def __init__(self, settings: FaultSettings, lock: threading.Lock) -> None:
        self.settings = settings
        self._lock = lock
        self._seen = 0
        self._lifted = False

    @property
    def seen(self) -> int:
        """How many requests it has spoiled."""
        with self._lock:
            return self._seen

    def lift(self) -> None:
        """Spoil nothing any more."""
        with self._lock:
            self._lifted = True

    def strike(self, method: str, path: str, *, count: bool) -> bool:
        """Whether this request is spoiled; counted where `count` says so."""
        with self._lock:
            spent = self.settings.times is not None and self._seen >= self.settings.times
            if self._lifted or spent or not self.settings.fits(method, path):
                return False
            self._seen += count
            return True


class Faults:
    """The faults of a hub; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[Fault] = []

    def add(self, settings: FaultSettings) -> Fault:
        """Spoil requests from now on."""
        fault = Fault(settings, threading.Lock())
        with self._lock:
            self._all.append(fault)
        return fault

    def lift(self) -> None:
        """Lift all faults."""
        with self._lock:
            faults, self._all = self._all, []
        for fault in faults:
            fault.lift()

    def take(self, request: Request, *kinds: FaultKind, count: bool = True) -> FaultSettings | None:
        """The first fault of these kinds that spoils the request, or None."""
        with self._lock:
            faults = [fault for fault in self._all if fault.settings.kind in kinds]
        path = unquote(request.path)
        for fault in faults:
            if fault.strike(request.method, path, count=count):
                return fault.settings
        return None

    def refusal(self, request: Request) -> Answer | None:
        """The error answer that a fault gives in place of the real one, or None."""
        settings = self.take(request, *REFUSING)
        return None if settings is None else refusal_answer(_refusal(settings, unquote(request.path)))

    def altered(self, request: Request, content: bytes) -> bytes:
        """The bytes of a file as the faults leave them: one bit changed, or cut short; HEAD requests do not count."""
        count = request.method != "HEAD"
        settings = self.take(request, "truncate", count=count)
        if settings is not None:
            return content[: len(content) // 2 if settings.at is None else settings.at]
        settings = self.take(request, "tamper", count=count) if content else None
        if settings is None:
            return content
        at = len(content) // 2 if settings.at is None else settings.at % len(content)
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _refusal(settings: FaultSettings, path: str) -> Refusal:
    if settings.kind == "unauthorized":
        return not_signed_in()
    if settings.kind == "forbidden":
        return not_allowed(f"do this: {path}")
    if settings.kind == "gated":
        return gated_repository(path)
    if settings.kind == "conflict":
        return conflict("Another operation is in progress")
    if settings.kind == "stale_parent":
        return Refusal(412, "A commit has happened since")
    wait = {} if settings.retry_after is None else {"Retry-After": str(settings.retry_after)}
    return Refusal(503, "The hub is not available", headers=wait)
