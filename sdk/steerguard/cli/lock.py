"""`steerguard lock`: choose the artifacts that policies stand for, and pin them to digests and commits."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steerguard.cli.plan import facts_of
from steerguard.cli.registry_source import EndpointOption, RegistryAccess, RegistryOption, TrustOption
from steerguard.cli.reporting import reported
from steerguard.errors import LockError
from steerguard.models.names import PACKAGED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from steerguard.registry.lockfile import LockedRegistry, Lockfile
    from steerguard.registry.locking import Locking, PolicyToLock
    from steerguard.registry.revocations import RevocationList
    from steerguard.registry.store import ArtifactStore

LOCK_FILE = Path("steerguard.lock")

_Policies = Annotated[
    list[str], typer.Argument(metavar="POLICY...", help="Names of shipped policies, or files: every policy in use.")
]
_Models = Annotated[
    list[str] | None,
    typer.Option("--model", help=f"Folder of a model, or {PACKAGED}; may be repeated. Without it every variant is."),
]
_Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="The lock file.")]
_Check = Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 where the lock file does not fit.")]
_Upgrade = Annotated[bool, typer.Option("--upgrade", help="Move to the highest versions that are admitted.")]
_Families = Annotated[
    list[str] | None, typer.Option("--family", help="With --upgrade: only this family; may be repeated.")
]


def lock(
    policies: _Policies,
    models: _Models = None,
    trust: TrustOption = None,
    registry: RegistryOption = None,
    endpoint: EndpointOption = None,
    out: _Out = LOCK_FILE,
    families: _Families = None,
    *,
    check: _Check = False,
    upgrade: _Upgrade = False,
) -> None:
    """Pin every artifact of the policies in a lock file; what is locked stays until --upgrade."""
    with reported():
        from steerguard.registry.lockfile import lockfile_of, read_lock, write_lock
        from steerguard.registry.locking import differences

        old = read_lock(out) if check or out.exists() else None
        locking = _locking(
            policies,
            models or [],
            RegistryAccess.of(trust, endpoint),
            registry,
            old,
            _upgraded(upgrade, families or []),
        )
        for skipped in locking.skipped:
            typer.echo(
                f"skipped {skipped.reference} ({skipped.registry})\n{skipped.error.code}: {skipped.error}", err=True
            )
        for warning in locking.warnings:
            typer.echo(f"warning: {warning}", err=True)
        lines = differences(old or lockfile_of((), (), ()), locking.lock)
        if not check and locking.lock != old:
            write_lock(out, locking.lock)
    for line in lines:
        typer.echo(line)
    if check and lines:
        typer.echo(f"{out} does not fit: run steerguard lock, and review what changes.", err=True)
        raise typer.Exit(1)
    done = "fits" if check else "is unchanged" if locking.lock == old else "is written"
    typer.echo(f"{out} {done}: artifacts {len(locking.lock.artifacts)}, policies {len(locking.lock.policies)}.")


def _upgraded(upgrade: bool, families: list[str]) -> Callable[[str], bool] | None:
    if families and not upgrade:
        raise LockError(
            "`--family` says what `--upgrade` is about.",
            expected="--upgrade --family FAMILY",
            found="--family alone",
            next_step="Add --upgrade.",
        )
    if not upgrade:
        return None
    return (lambda family: family in families) if families else (lambda _: True)


def _locking(
    names: Iterable[str],
    models: Iterable[str],
    access: RegistryAccess,
    registry: str | None,
    old: Lockfile | None,
    upgraded: Callable[[str], bool] | None,
) -> Locking:
    from steerguard.registry.locking import make_lock
    from steerguard.registry.sources import Sources
    from steerguard.registry.store import PinnedOnly
    from steerguard.trust.judge import TrustedJudge

    policies = [_to_lock(name) for name in names]
    default = access.store(registry)
    lists = present_lists(access)
    judge = PinnedOnly() if access.trust is None else TrustedJudge(access.trust, lists)
    sources = Sources(default=default, judge=judge, remote=cache(access.hub_registry), enforce=False)

    def state(store: ArtifactStore) -> LockedRegistry:
        return registry_state(store, lists)

    if upgraded is not None:
        _require_known(upgraded, policies)
    return make_lock(
        policies, sources, state=state, models=[facts_of(model) for model in models], old=old, upgraded=upgraded
    )


def present_lists(access: RegistryAccess, *, offline: bool = False) -> Mapping[str, RevocationList]:
    """Return the lists of revocations of every registry that the trust policy names, those of the Hub as they are now.

    Raises:
        TrustError: a list is missing, too old, older than one seen before, or not signed as it must be.
    """
    if access.trust is None:
        return {}
    from steerguard.registry.names import is_hub
    from steerguard.trust.revocation_source import load_revocations
    from steerguard.watching import ListReader

    pulled = access.pulled()
    reader = ListReader(access.trust, pulled, access.client())
    for named in access.trust.registries:
        if is_hub(named.registry) and not offline:
            reader(named.registry)
    return load_revocations(access.trust, pulled)


def registry_state(store: ArtifactStore, lists: Mapping[str, RevocationList]) -> LockedRegistry:
    """Return what a registry shows now, as a lock file writes it down."""
    from steerguard.registry.lockfile import LockedRegistry
    from steerguard.registry.names import is_hub

    held = lists.get(store.name)
    index_sequence, index_sha256 = None, None
    if is_hub(store.name):
        from steerguard.hub.registry import HubRegistry

        shown = store.state() if isinstance(store, HubRegistry) else None
        if shown is not None and shown.index is not None:
            index_sequence, index_sha256 = shown.index.sequence, shown.index_sha256
    return LockedRegistry(
        registry=store.name,
        index_sequence=index_sequence,
        index_sha256=index_sha256,
        revocations_sequence=None if held is None else held.sequence,
    )


def _to_lock(name: str) -> PolicyToLock:
    from steerguard.plan.resolve import artifact_needs
    from steerguard.policy.load import load_policy
    from steerguard.registry.locking import PolicyToLock

    document = load_policy(name)
    return PolicyToLock(name=document.metadata.name, digest=document.digest, references=artifact_needs(document))


def _require_known(upgraded: Callable[[str], bool], policies: Iterable[PolicyToLock]) -> None:
    from steerguard.artifacts.reference import parse_reference

    known = sorted({parse_reference(text).family for policy in policies for text in policy.references})
    if not any(upgraded(family) for family in known):
        raise LockError(
            "No policy uses the family that is to be upgraded.",
            expected=", ".join(known) or "a policy that uses an artifact",
            found="another name",
            next_step="Correct --family.",
        )
