"""Lists of revocations and watches over them: builders for tests, with defaults."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from steerguard.registry.index import IndexEntry
from steerguard.registry.revocations import RevocationList, RevokedArtifact, RevokedKey, revocation_list
from steerguard.trust.findings import WatchedArtifact
from steerguard.trust.watch import RevocationWatch

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SINCE = "2026-11-22T11:00:00Z"
REGISTRY = "hf://acme"
KEY = "ed25519-0123456789abcdef"
OTHER_KEY = "ed25519-fedcba9876543210"


def entry(**changes: Any) -> IndexEntry:
    """An artifact `steer/tiny@1.2.0`."""
    given = {"family": "steer", "variant": "tiny", "version": "1.2.0", "digest": f"sha256:{'a' * 64}", **changes}
    return IndexEntry(**given)


def artifact(signed_by: tuple[str, ...] = (), signatures: int = 1, **changes: Any) -> WatchedArtifact:
    """The same, watched."""
    return WatchedArtifact(entry=entry(**changes), signed_by=signed_by, signatures=signatures)


def revokes(what: IndexEntry | None = None, action: str = "refuse", reason: str = "unsafe", **named: Any):
    """An entry of a list: by digest, or by the names that are given."""
    by = named or {"digest": (what or entry()).digest}
    return RevokedArtifact(reason=reason, action=action, note="for tests", since=SINCE, **by)


def revokes_key(key_id: str = KEY, reason: str = "leaked_key") -> RevokedKey:
    return RevokedKey(key_id=key_id, reason=reason, since=SINCE)


def listed(
    *artifacts: RevokedArtifact,
    sequence: int = 1,
    registry: str = REGISTRY,
    issued: datetime = NOW,
    days: int = 30,
    keys: tuple[RevokedKey, ...] = (),
) -> RevocationList:
    """A list that was issued now and lasts for thirty days."""
    return revocation_list(
        registry,
        sequence=sequence,
        issued=issued,
        expires=issued + timedelta(days=days),
        artifacts=artifacts,
        keys=keys,
    )


class Clock:
    """A clock that tests set."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Shelf:
    """What a reader finds at this moment; tests put lists on it, or failures."""

    def __init__(self, *lists: RevocationList) -> None:
        self.lists = {one.registry: one for one in lists}
        self.failures: dict[str, BaseException] = {}
        self.reads = 0

    def put(self, document: RevocationList, *, under: str | None = None) -> None:
        self.lists = {**self.lists, under or document.registry: document}

    def __call__(self, registry: str) -> RevocationList | None:
        self.reads += 1
        if registry in self.failures:
            raise self.failures[registry]
        return self.lists.get(registry)


def watch_over(shelf: Shelf, **settings: Any) -> RevocationWatch:
    """A watch that knows what lies on the shelf now, reads it hourly, and accepts lists for seven days."""
    given = {
        "known": dict(shelf.lists),
        "registries": tuple(shelf.lists),
        "every": 3600.0,
        "max_age": timedelta(days=7),
        "now": Clock(),
        **settings,
    }
    return RevocationWatch(shelf, **given)
