"""What lists of revocations say about the artifacts of a running guard. Data and pure functions; no clock, no thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from steerguard.registry.index import IndexEntry
    from steerguard.registry.revocations import Reason, RevocationAction, RevocationList


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedArtifact:
    """One artifact that a guard uses, and the keys that it was admitted for."""

    entry: IndexEntry
    signed_by: tuple[str, ...] = ()
    """Ids of the keys whose signatures count; empty where none was asked for."""
    signatures: int = 1
    """How many of them must remain; at least 1. Without any key in `signed_by` it means nothing."""

    @property
    def reference(self) -> str:
        """The exact name `family/variant@version`."""
        return self.entry.reference

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the manifest."""
        return self.entry.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What speaks against one artifact."""

    artifact: WatchedArtifact
    registry: str
    """The registry whose list says it, or whose list is stale."""
    state: Literal["revoked", "stale"]
    """`revoked`: a list names the artifact or its keys. `stale`: a list is too old to rely on, or was never read."""
    action: RevocationAction
    reason: Reason | None = None
    """Why it was revoked; None where a list is stale."""
    sequence: int | None = None
    """Of the list; None where none was read."""
    allowed: str | None = None
    """The reason that the trust policy gives for going on with a stale list."""

    @property
    def refuses(self) -> bool:
        """Whether the artifact must not be used."""
        return self.action == "refuse"


def revoked_in(lists: Mapping[str, RevocationList], artifact: WatchedArtifact) -> Finding | None:
    """Return what the lists of all registries revoke about one artifact; one that refuses before one that warns.

    Every list counts, whatever registry the artifact came from: the same bytes may lie in several. A key is revoked for
    all that it signed; the artifact is, once fewer keys remain than it was admitted for.

    Args:
        lists: by registry.
        artifact: the artifact.
    """
    found = [*_by_name(lists, artifact), *_by_key(lists, artifact)]
    return min(found, key=lambda finding: not finding.refuses, default=None)


def strictest(findings: Iterable[Finding | None]) -> Finding | None:
    """Return the finding to act on: one that refuses before one that warns, and of these the first; None of none."""
    return min((one for one in findings if one is not None), key=lambda finding: not finding.refuses, default=None)


def _by_name(lists: Mapping[str, RevocationList], artifact: WatchedArtifact) -> list[Finding]:
    found = []
    for registry, held in sorted(lists.items()):
        revoked = held.revoked_as(artifact.entry)
        if revoked is not None:
            found.append(
                Finding(
                    artifact=artifact,
                    registry=registry,
                    state="revoked",
                    action=revoked.action,
                    reason=revoked.reason,
                    sequence=held.sequence,
                )
            )
    return found


def _by_key(lists: Mapping[str, RevocationList], artifact: WatchedArtifact) -> list[Finding]:
    revoked = [
        (registry, held.sequence, key)
        for registry, held in sorted(lists.items())
        for key in held.keys
        if key.key_id in artifact.signed_by
    ]
    remaining = set(artifact.signed_by) - {key.key_id for _, _, key in revoked}
    if not revoked or len(remaining) >= artifact.signatures:
        return []
    registry, sequence, key = revoked[0]
    return [
        Finding(
            artifact=artifact, registry=registry, state="revoked", action="refuse", reason=key.reason, sequence=sequence
        )
    ]
