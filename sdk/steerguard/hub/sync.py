"""Bringing this machine up to a lock file: artifacts at their locked commits, and the newest index and revocations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from steerguard.errors import LockFormatError, RegistryUnavailableError, TrustError
from steerguard.hub.pull import PullTarget, fetch_attestations, origin_of, pull
from steerguard.hub.read_index import RegistryState, read_index
from steerguard.registry.freshness import check_successor
from steerguard.registry.index import IndexEntry
from steerguard.registry.names import is_hub, organisation_of
from steerguard.registry.revocations import REVOCATIONS
from steerguard.registry.signed_index import SIGNED_INDEX
from steerguard.signing.keys import PublicKey

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.lockfile import LockedRegistry, Lockfile
    from steerguard.registry.pulled import PulledArtifacts
    from steerguard.registry.store import Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What was done; names are `family/variant@version`, sorted."""

    present: tuple[str, ...]
    """Were there, and sound."""
    pulled: tuple[str, ...]
    """Were missing, and are there now."""
    repaired: tuple[str, ...]
    """Were damaged; the damaged copies lie in quarantine."""
    registries: tuple[str, ...]
    """Registries whose index and revocations were read now."""
    attested: tuple[str, ...] = ()
    """Of those that were there: nobody who is trusted vouched for them, so their attestations were fetched again."""
    unchecked: tuple[str, ...]
    """Registries whose index and revocations were not read: no keys for them, or offline."""


def sync(
    lock: Lockfile,
    pulled: PulledArtifacts,
    client: HubClient | None,
    *,
    index_keys: Mapping[str, Iterable[PublicKey]],
    judge: Judge | None = None,
    max_age: timedelta | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> SyncReport:
    """Pull every locked artifact of the Hub that is missing or damaged, and remember each registry's newest state.

    Args:
        lock: says which commits.
        pulled: the store.
        client: the Hub; None, or one that is offline, only looks whether everything is there.
        index_keys: who may sign index and revocations, by name of the registry.
        judge: attestations of artifacts that it refuses are fetched again: they lie outside the digest, so the Hub may
            have shown others, or none, when the artifact was pulled. None fetches none again.
        max_age: longest accepted time since an index was issued.
        now: the present, with a time zone.

    Raises:
        RegistryUnavailableError: no network, and something is missing: names all of it.
        RollbackError: a registry shows an older state than this machine or the lock file has seen.
        StaleError: an index has expired or is too old.
        SignatureError: an index or list of revocations is not signed by one of its keys.
        LockFormatError: the lock file pins an artifact of the Hub without its commit.
        And as `pull` does.
    """
    targets = locked_targets(lock)
    sound = {target.digest: pulled.has(target.digest) and pulled.sound(target.digest) for target in targets}
    ready = {target: sound[target.digest] and origin_of(target) in pulled.origins(target.digest) for target in targets}
    hubs = sorted({one.registry for one in lock.registries if is_hub(one.registry)})
    if client is None or client.offline:
        _require_all(targets, ready, pulled)
        return _report(targets, present=set(targets), damaged=set(), registries=(), unchecked=tuple(hubs))
    read = []
    for registry in lock.registries:
        keys = tuple(index_keys.get(registry.registry, ()))
        if is_hub(registry.registry) and keys:
            organisation = organisation_of(registry.registry)
            read_index(
                client,
                organisation,
                keys=keys,
                pulled=pulled,
                now=now(),
                max_age=max_age,
                # Before it is remembered: a state that the lock file refutes must not be in the way of the right one.
                require=partial(_check_floor, registry),
            )
            read.append(registry.registry)
    damaged = {target for target in targets if not sound[target.digest] and pulled.has(target.digest)}
    doubtful = set() if judge is None else _refused(lock, pulled, ready, judge)
    for target in targets:
        if not ready[target]:
            pull(client, target, pulled)
        elif target in doubtful:
            fetch_attestations(client, target, pulled)
    return _report(
        targets,
        present={target for target in targets if ready[target]},
        damaged=damaged,
        registries=tuple(sorted(read)),
        attested=doubtful,
        unchecked=tuple(registry for registry in hubs if registry not in read),
    )


def locked_targets(lock: Lockfile) -> tuple[PullTarget, ...]:
    """Return every artifact of the Hub that a lock file pins, each once, sorted by name.

    Raises:
        LockFormatError: one has no repository or commit.
    """
    found = set[PullTarget]()
    for one in lock.artifacts:
        if not is_hub(one.registry):
            continue
        if one.repo is None or one.commit is None:
            raise LockFormatError(
                f"The lock file does not say where {one.family}/{one.variant}@{one.version} is.",
                expected="repository and commit",
                found="null",
                next_step="Run `steerguard lock`.",
            )
        reference = f"{one.family}/{one.variant}@{one.version}"
        found.add(PullTarget(reference=reference, digest=one.digest, repo=one.repo, commit=one.commit))
    return tuple(sorted(found, key=lambda target: (target.reference, target.digest, target.repo, target.commit)))


def _refused(
    lock: Lockfile, pulled: PulledArtifacts, ready: Mapping[PullTarget, bool], judge: Judge
) -> set[PullTarget]:
    """Return what is here and sound, and is not vouched for by what lies beside it."""
    found = set[PullTarget]()
    for one in lock.artifacts:
        entry = IndexEntry(family=one.family, variant=one.variant, version=one.version, digest=one.digest)
        for target in (target for target, is_ready in ready.items() if is_ready and target.digest == one.digest):
            try:
                judge.admit(entry, registry=one.registry, attestations=pulled.attestations(entry))
            except TrustError:
                found.add(target)
    return found


def _require_all(targets: tuple[PullTarget, ...], ready: Mapping[PullTarget, bool], pulled: PulledArtifacts) -> None:
    missing = [target for target in targets if not ready[target]]
    if missing:
        raise RegistryUnavailableError(
            "The network is switched off, and locked artifacts are missing or damaged on this machine.",
            where=pulled.root,
            expected="every locked artifact, sound",
            found="; ".join(f"{target.reference} from {origin_of(target)}" for target in missing),
            next_step="Run `steerguard sync` once with a network, or copy the store from another machine.",
        )


def _check_floor(locked: LockedRegistry, state: RegistryState) -> None:
    """Refuse a state that is older than the one that the file was locked with: a new machine remembers nothing."""
    if state.index is not None:
        check_successor(
            state.index.sequence,
            locked.index_sequence,
            new_sha256=state.index_sha256 or "",
            seen_sha256=locked.index_sha256,
            where=f"{locked.registry}: {SIGNED_INDEX}",
        )
    found = 0 if state.revocations is None else state.revocations.sequence
    check_successor(
        found,
        locked.revocations_sequence,
        new_sha256="",
        seen_sha256="",
        where=f"{locked.registry}: {REVOCATIONS}",
    )


def _report(
    targets: tuple[PullTarget, ...],
    *,
    present: set[PullTarget],
    damaged: set[PullTarget],
    registries: tuple[str, ...],
    unchecked: tuple[str, ...],
    attested: Iterable[PullTarget] = (),
) -> SyncReport:
    return SyncReport(
        present=_names(present),
        pulled=_names(set(targets) - present - damaged),
        repaired=_names(damaged),
        registries=registries,
        attested=_names(attested),
        unchecked=unchecked,
    )


def _names(targets: Iterable[PullTarget]) -> tuple[str, ...]:
    return tuple(sorted({target.reference for target in targets}))
