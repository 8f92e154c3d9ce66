"""Revocations while a guard runs: one look at the start of every call, one audit record for every change.

What was decided about a call at its start stands until it ends: a list that arrives while it runs holds from the next
call on.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from steerguard.audit.records.record import revoked_event
from steerguard.registry.index import IndexEntry
from steerguard.trust.findings import WatchedArtifact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from steerguard.audit.log import AuditLog
    from steerguard.engine.loop import Engine
    from steerguard.plan.resolve import ResolvedArtifact
    from steerguard.registry.store import PinnedManifest
    from steerguard.trust.document import TrustPolicy
    from steerguard.trust.findings import Finding
    from steerguard.trust.watch import RevocationWatch

_State = tuple[str, str, str | None]
"""State, action and reason: a record follows when one of them changes."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What the log of one process knows."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    states: dict[WatchedArtifact, _State] = field(default_factory=dict)


class Revocations:
    """What a guard does about revocations; the watch finds them.

    Args:
        watch: says what speaks against artifacts; ended with the guard.
    """

    def __init__(self, watch: RevocationWatch) -> None:
        self.watch = watch
        self._told: dict[int, _Told] = {}
        """By process id: a forked child writes a log of its own."""

    def applied(self, engine: Engine, audit: AuditLog) -> Engine:
        """Return the engine as a call that starts now runs it: refusing every row where an artifact is revoked.

        Args:
            engine: of the policy that the call runs under.
            audit: learns of every change before the call can release anything.

        Raises:
            AuditError: a change could not be recorded.
        """
        findings = self.watch.against(engine.artifacts)
        told = self._told.setdefault(os.getpid(), _Told())
        if findings or told.states:
            self._tell(told, engine.artifacts, findings, audit)
        return replace(engine, revoked=True) if any(finding.refuses for finding in findings) else engine

    def forget(self) -> None:
        """Tell the log everything again: it is another one."""
        self._told.clear()

    def close(self) -> None:
        """End the watch."""
        self.watch.close()

    @staticmethod
    def _tell(told: _Told, artifacts: Sequence[WatchedArtifact], findings: Sequence[Finding], audit: AuditLog) -> None:
        by_artifact = {finding.artifact: finding for finding in findings}
        with told.lock:
            for artifact in artifacts:
                finding = by_artifact.get(artifact)
                state = None if finding is None else (finding.state, finding.action, finding.reason)
                if told.states.get(artifact) == state:
                    continue
                audit.record(revoked_event(artifact, finding))
                if state is None:
                    del told.states[artifact]
                else:
                    told.states[artifact] = state


def watched_artifacts(
    resolved: Mapping[str, ResolvedArtifact], trust: TrustPolicy | None
) -> tuple[WatchedArtifact, ...]:
    """Return what a policy uses as the watch knows it, each artifact once; nothing without a trust policy.

    Args:
        resolved: by reference.
        trust: says how many keys of a publisher must have signed.
    """
    if trust is None:
        return ()
    signatures = {publisher.id: publisher.require.signatures for publisher in trust.publishers}
    return tuple(
        dict.fromkeys(
            WatchedArtifact(
                entry=_entry(artifact.pin),
                signed_by=artifact.evidence.signed_by,
                signatures=signatures.get(artifact.evidence.publisher or "", 1),
            )
            for artifact in resolved.values()
        )
    )


def _entry(pin: PinnedManifest) -> IndexEntry:
    return IndexEntry(family=pin.family, variant=pin.variant, version=pin.version, digest=pin.digest)
