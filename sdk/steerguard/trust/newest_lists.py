"""The newest list of revocations of each registry at one moment: what follows it, what it says, whether it is fresh."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from steerguard.canonical import sha256_hex
from steerguard.errors import SignatureError, StaleError
from steerguard.registry.freshness import check_fresh, check_successor
from steerguard.registry.revocations import revocations_bytes
from steerguard.trust.findings import Finding, WatchedArtifact, revoked_in

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime, timedelta

    from steerguard.registry.revocations import RevocationList


@dataclass(frozen=True, slots=True, kw_only=True)
class DatedList:
    """One list with its digest and times at hand."""

    document: RevocationList
    sha256: str
    issued: datetime
    expires: datetime

    @classmethod
    def of(cls, document: RevocationList) -> DatedList:
        """Return a list with what is asked of it again and again."""
        return cls(
            document=document,
            sha256=sha256_hex(revocations_bytes(document)),
            issued=document.issued_at,
            expires=document.expires_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewestLists:
    """What is known at one moment; a newer moment is another object."""

    by_registry: Mapping[str, DatedList]
    registries: tuple[str, ...]
    """Those that must have a list, and those that have one; sorted."""
    _judged: dict[WatchedArtifact, Finding | None] = field(default_factory=dict)
    """What these lists revoke, worked out once for each artifact."""

    @classmethod
    def of(cls, required: Collection[str], held: Mapping[str, DatedList]) -> NewestLists:
        """Return what is known.

        Args:
            required: registries that must have a list.
            held: by registry.
        """
        return cls(by_registry=held, registries=tuple(sorted({*required, *held})))

    def revoked(self, artifact: WatchedArtifact) -> Finding | None:
        """Return what the lists revoke about an artifact; None when they say nothing of it."""
        if artifact not in self._judged:
            documents = {registry: held.document for registry, held in self.by_registry.items()}
            self._judged[artifact] = revoked_in(documents, artifact)
        return self._judged[artifact]

    def stale(self, now: datetime, max_age: timedelta | None) -> str | None:
        """Return the first registry whose list is missing, expired, too old or from the future; None when all are fresh.

        Args:
            now: the present, with time zone.
            max_age: how old a list may be, counted from its issue; None for as long as it has not expired.
        """
        for registry in self.registries:
            held = self.by_registry.get(registry)
            if held is None:
                return registry
            try:
                check_fresh(held.issued, held.expires, now, where=registry, max_age=max_age)
            except StaleError:
                return registry
        return None

    def followed_by(self, registry: str, document: RevocationList) -> NewestLists:
        """Return what is known once another list was read; what was asked before is worked out at once.

        Args:
            registry: whose list it should be.
            document: the list.

        Raises:
            RollbackError: it is older than the one that is known, or another one of the same number.
            SignatureError: it is the list of another registry.
        """
        held = self.by_registry.get(registry)
        newer = _newer(registry, document, held)
        if newer is held:
            return self
        after = NewestLists.of(self.registries, {**self.by_registry, registry: newer})
        # Here and not in the next request: a list may be long.
        for artifact in list(self._judged):
            after.revoked(artifact)
        return after


def _newer(registry: str, document: RevocationList, held: DatedList | None) -> DatedList:
    """Return the list to go on with: the new one, or what is held where it is the same.

    Raises:
        RollbackError: the new one is older, or another one of the same number.
        SignatureError: it is the list of another registry.
    """
    if document.registry != registry:
        raise SignatureError(
            "This is the list of revocations of another registry.",
            expected=registry,
            found=document.registry,
            where=registry,
            next_step="Report this to whoever serves the registry.",
        )
    new = DatedList.of(document)
    if held is None:
        return new
    known = held.document.sequence
    check_successor(document.sequence, known, new_sha256=new.sha256, seen_sha256=held.sha256, where=registry)
    return held if document.sequence == known else new
