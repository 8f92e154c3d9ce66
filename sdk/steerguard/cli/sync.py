"""`steerguard sync`: bring what a lock file pins to this machine, and judge it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.lock import LOCK_FILE, present_lists
from steerguard.cli.registry_source import EndpointOption, RegistryAccess, TrustOption
from steerguard.cli.reporting import reported
from steerguard.errors import LockMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from steerguard.registry.index import IndexEntry
    from steerguard.registry.lockfile import LockedArtifact, LockedRegistry, Lockfile
    from steerguard.registry.pulled import PulledArtifacts
    from steerguard.registry.revocations import RevocationList
    from steerguard.registry.store import Evidence
    from steerguard.signing.keys import PublicKey
    from steerguard.trust.document import TrustPolicy

_Lock = Annotated[Path, typer.Option("--lock", metavar="FILE", help="The lock file.")]
_Frozen = Annotated[
    bool, typer.Option("--frozen", help="Never write the lock file, not even what was seen of signatures.")
]
_Offline = Annotated[bool, typer.Option("--offline", help="Use no network: only look whether everything is here.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Present:
    """One locked artifact that is on this machine, whole and admitted."""

    locked: LockedArtifact
    evidence: Evidence


def sync(
    lock: _Lock = LOCK_FILE,
    trust: TrustOption = None,
    endpoint: EndpointOption = None,
    *,
    frozen: _Frozen = False,
    offline: _Offline = False,
) -> None:
    """Pull every locked artifact that is missing or damaged, hash every byte of all, and judge them."""
    with reported():
        from steerguard.hub.sync import sync as bring
        from steerguard.registry.lockfile import read_lock, write_lock
        from steerguard.trust.judge import TrustedJudge

        locked = read_lock(lock)
        _require_consistent(locked)
        access = RegistryAccess.of(trust, endpoint)
        pulled = access.pulled()
        client = None if offline else access.client()
        # Without lists: only whether signatures and vetting are there is asked, and what is revoked is told below.
        judge = None if access.trust is None else TrustedJudge(access.trust, {})
        report = bring(locked, pulled, client, index_keys=_index_keys(access.trust, locked), judge=judge)
        for word in ("present", "pulled", "repaired", "attested"):
            for name in getattr(report, word):
                typer.echo(f"{word:9} {name}")
        for registry in report.unchecked:
            typer.echo(f"warning: the index and the revocations of {registry} were not read.", err=True)
        lists = present_lists(access, offline=offline)
        present = list(_judged(locked, pulled, access.trust, lists))
        for warning in dict.fromkeys(text for one in present for text in one.evidence.warnings):
            typer.echo(f"warning: {warning}", err=True)
        if access.trust is not None and not frozen:
            renewed = _renewed(locked, present, pulled, access.trust, lists)
            if renewed != locked:
                write_lock(lock, renewed)
                typer.echo(f"{lock} now says what was seen of registries, signatures and vetting records.")
    judged = "admitted by the trust policy" if access.trust is not None else "not judged, without --trust"
    digests = {one.locked.digest for one in present}
    typer.echo(f"{len(digests)} locked artifacts are on this machine, {judged}.")


def _require_consistent(lock: Lockfile) -> None:
    """Refuse a lock file whose artifacts are not those that its policies refer to.

    Raises:
        LockError: a reference has no artifact, or one that it does not admit; or an artifact has no reference.
    """
    from steerguard.artifacts.reference import parse_reference
    from steerguard.registry.sources import locked_for

    named = {parse_reference(text) for policy in lock.policies for text in policy.references}
    for reference in named:
        locked_for(lock, reference)
    for artifact in lock.artifacts:
        if parse_reference(artifact.reference) not in named:
            raise LockMismatchError(
                "The lock file pins an artifact that none of its policies refers to.",
                expected=", ".join(sorted(str(reference) for reference in named)) or "no artifact",
                found=artifact.reference,
                next_step="Run steerguard lock.",
            )


def _index_keys(trust: TrustPolicy | None, lock: Lockfile) -> dict[str, tuple[PublicKey, ...]]:
    """Return by registry of the lock file the keys that may sign its index; a registry without keys is left out."""
    if trust is None:
        return {}
    now = datetime.now(UTC)
    found = {one.registry: trust.keys_of_registry(one.registry, now) for one in lock.registries}
    return {registry: keys for registry, keys in found.items() if keys}


class _Unjudged:
    """Admits what is to be looked at only; whatever loads it judges it."""

    def admit(self, entry: IndexEntry, *, registry: str, attestations: Mapping[str, bytes]) -> Evidence:
        from steerguard.registry.store import Evidence

        del entry, registry, attestations
        return Evidence()


def _judged(
    lock: Lockfile, pulled: PulledArtifacts, trust: TrustPolicy | None, lists: Mapping[str, RevocationList]
) -> Iterator[_Present]:
    """Yield every locked artifact once it is known to be here, whole and admitted.

    Raises:
        TrustError: nobody who is trusted vouches for one, or it is revoked.
        ArtifactError: one is missing or damaged.
        LockMismatchError: a registry on this machine holds other bytes.
    """
    from steerguard.artifacts.integrity import check_integrity
    from steerguard.artifacts.reference import parse_reference
    from steerguard.registry.local import embedded_registry
    from steerguard.registry.sources import Sources, locked_for
    from steerguard.trust.judge import TrustedJudge

    judge = _Unjudged() if trust is None else TrustedJudge(trust, lists)
    sources = Sources(default=embedded_registry(), lock=lock, pulled=pulled, judge=judge)
    for text in dict.fromkeys(artifact.reference for artifact in lock.artifacts):
        reference = parse_reference(text)
        for candidate in sources.candidates(reference):
            if candidate.store is not pulled:
                check_integrity(
                    candidate.store.read(candidate.pin), candidate.pin.digest, where=candidate.pin.reference
                )
            for locked in locked_for(lock, reference):
                if locked.digest == candidate.pin.digest:
                    yield _Present(locked=locked, evidence=candidate.evidence)


def _renewed(
    lock: Lockfile,
    present: list[_Present],
    pulled: PulledArtifacts,
    trust: TrustPolicy,
    lists: Mapping[str, RevocationList],
) -> Lockfile:
    """Return the lock file with what was seen now of registries, signatures and vetting; versions and digests stay."""
    from steerguard.registry.lockfile import LockedVetting, lockfile_of

    artifacts = []
    for one in present:
        level, digest = one.evidence.vetting_level, one.evidence.vetting_digest
        vetting = None
        if level is not None and digest is not None:
            vetting = LockedVetting(level=level, sha256=digest.removeprefix("sha256:"))
        signed_by = tuple(sorted(one.evidence.signed_by))
        artifacts.append(one.locked.model_copy(update={"signed_by": signed_by, "vetting": vetting}))
    registries = [_seen(one, pulled, trust, lists) for one in lock.registries]
    return lockfile_of(lock.policies, registries, artifacts)


def _seen(
    locked: LockedRegistry, pulled: PulledArtifacts, trust: TrustPolicy, lists: Mapping[str, RevocationList]
) -> LockedRegistry:
    """Return the newest state of a registry that this machine has verified."""
    from steerguard.canonical import sha256_hex
    from steerguard.registry.names import is_hub
    from steerguard.registry.signed_index import SIGNED_INDEX, signed_index_bytes, verified_index

    found: dict[str, object] = {}
    if locked.registry in lists:
        found["revocations_sequence"] = lists[locked.registry].sequence
    envelope = pulled.remembered(locked.registry).get(SIGNED_INDEX) if is_hub(locked.registry) else None
    if envelope is not None:
        keys = trust.keys_of_registry(locked.registry, datetime.now(UTC))
        index, _ = verified_index(envelope, keys, registry=locked.registry, where=f"{locked.registry}: {SIGNED_INDEX}")
        found |= {"index_sequence": index.sequence, "index_sha256": sha256_hex(signed_index_bytes(index))}
    return locked.model_copy(update=found)
