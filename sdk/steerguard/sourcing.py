"""From what `wrap` is given to where its artifacts may come from: registry, trust policy, lock file, lists of revocations.

No network where everything is locked and pulled: a registry on the Hub is asked only when a reference without a lock
points there, which mode `enforce` refuses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from steerguard.artifacts.reference import parse_reference
from steerguard.errors import RollbackError, SignatureError
from steerguard.registry.local import LocalDirectory, embedded_registry
from steerguard.registry.lockfile import Lockfile, read_lock
from steerguard.registry.names import HUB_PREFIX, is_hub, organisation_of
from steerguard.registry.pulled import PulledArtifacts
from steerguard.registry.sources import Sources, local_store
from steerguard.registry.store import LOCAL_SCHEME, PinnedOnly
from steerguard.trust.judge import TrustedJudge
from steerguard.trust.load import load_trust
from steerguard.trust.revocation_source import load_revocations
from steerguard.watching import ListReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from steerguard.plan.resolve import ResolvedArtifact
    from steerguard.registry.lockfile import LockedRegistry
    from steerguard.registry.resolve import Remote
    from steerguard.registry.revocations import RevocationList
    from steerguard.registry.store import ArtifactStore
    from steerguard.trust.document import TrustPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourcing:
    """Where artifacts come from, and by what they are judged."""

    sources: Sources
    pulled: PulledArtifacts
    trust: TrustPolicy | None = None
    revocations: Mapping[str, RevocationList] = field(default_factory=dict)
    """By registry the list that artifacts are admitted by."""


def open_sources(
    registry: ArtifactStore | Path | str | None,
    *,
    trust: TrustPolicy | Path | str | None = None,
    lock: Lockfile | Path | str | None = None,
    enforce: bool = True,
    references: Iterable[str] = (),
    pulled: PulledArtifacts | None = None,
) -> Sourcing:
    """Return where the artifacts of a policy may come from.

    Args:
        registry: store of references that name none: a store, a folder, `file:///absolute/path` or `hf://organisation`;
            the embedded registry by default.
        trust: trust policy or its file; without one local registries are trusted as the folder is, and others are not.
        lock: lock file; without one remote artifacts are read in other modes than `enforce` only.
        enforce: whether remote artifacts must be locked.
        references: what the policy asks for, as it is written there; tells whether a remote registry is needed.
        pulled: where pulled artifacts lie; the user's store by default.

    Raises:
        TrustPolicyError: the trust policy is malformed.
        LockError: the lock file is malformed.
        TrustError: a list of revocations is missing, too old, older than one seen before or not signed as it must be;
            or the registry is on the Hub and the trust policy names no keys for it.
        ArtifactError: the operating system refuses, or a document is malformed.
    """
    policy = None if trust is None else load_trust(trust)
    locked = lock if lock is None or isinstance(lock, Lockfile) else read_lock(Path(lock))
    store = PulledArtifacts() if pulled is None else pulled
    remote = None if policy is None else remote_registries(policy, store)
    default = _default(registry, remote)
    lists: Mapping[str, RevocationList] = {}
    if policy is not None:
        asked = {default.name, *(parse_reference(text).registry for text in references)}
        if locked is None and not enforce:
            _bring_lists(policy, store, {name for name in asked if is_hub(name)})
        lists = load_revocations(policy, store)
        _require_as_new(lists, () if locked is None else locked.registries)
    return Sourcing(
        sources=Sources(
            default=default,
            lock=locked,
            pulled=store,
            judge=PinnedOnly() if policy is None else TrustedJudge(policy, lists),
            remote=remote,
            enforce=enforce,
        ),
        pulled=store,
        trust=policy,
        revocations=lists,
    )


def tell_warnings(resolved: Iterable[ResolvedArtifact]) -> None:
    """Log what the judge wants known about artifacts that it admitted, each sentence once."""
    for warning in dict.fromkeys(text for artifact in resolved for text in artifact.evidence.warnings):
        structlog.get_logger("steerguard").warning("artifact_admitted_with_warning", warning=warning)


def remote_registries(trust: TrustPolicy, pulled: PulledArtifacts) -> Remote:
    """Return what makes the store of a registry on the Hub, one for each name; nothing is read yet.

    Raises:
        SignatureError: by the function, where the trust policy names no keys for the registry.
    """

    @cache
    def remote(name: str) -> ArtifactStore:
        from steerguard.hub.client import HubClient  # noqa: PLC0415 - needed for registries on the Hub only
        from steerguard.hub.registry import HubRegistry  # noqa: PLC0415 - as above

        keys = trust.keys_of_registry(name, datetime.now(UTC))
        if not keys:
            raise SignatureError(
                "The trust policy names no keys for this registry.",
                where=name,
                expected="an entry of `registries` with keys that count",
                found=", ".join(one.registry for one in trust.registries) or "no registry at all",
                next_step="Add the registry and its keys to the trust policy once you have checked them.",
            )
        return HubRegistry(organisation_of(name), client=HubClient(), pulled=pulled, index_keys=keys)

    return remote


def _default(registry: ArtifactStore | Path | str | None, remote: Remote | None) -> ArtifactStore:
    if registry is None:
        return embedded_registry()
    if isinstance(registry, str) and registry.startswith(HUB_PREFIX):
        if remote is None:
            raise SignatureError(
                "A registry on the Hub is read only under a trust policy, which names the keys of its index.",
                where=registry,
                expected="a trust policy",
                found="none",
                next_step="Pass trust= (or --trust).",
            )
        return remote(registry)
    if isinstance(registry, str) and registry.startswith(LOCAL_SCHEME):
        return local_store(registry)
    return LocalDirectory(registry) if isinstance(registry, (str, Path)) else registry


def _require_as_new(lists: Mapping[str, RevocationList], locked: Iterable[LockedRegistry]) -> None:
    """Refuse lists that are older than those that the file was locked with: what this machine remembers may be older."""
    for registry in locked:
        held = lists.get(registry.registry)
        if held is not None and held.sequence < (registry.revocations_sequence or 0):
            raise RollbackError(
                "The list of revocations on this machine is older than the one that the file was locked with.",
                where=registry.registry,
                expected=f"sequence {registry.revocations_sequence} or higher",
                found=f"sequence {held.sequence}",
                next_step="Run steerguard sync with a network; if it stays so, somebody may be hiding the present list.",
            )


def _bring_lists(trust: TrustPolicy, pulled: PulledArtifacts, registries: Iterable[str]) -> None:
    """Bring the present lists of remote registries to this machine: what is read without a lock is read now."""
    reader = ListReader(trust, pulled)
    named = {one.registry for one in trust.registries}
    for registry in sorted(named & set(registries)):
        reader(registry)
