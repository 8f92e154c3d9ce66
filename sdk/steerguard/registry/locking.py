"""Choosing what a lock file pins, and saying what changed. Pure: stores are asked, nothing is written.

A version that is locked stays, as long as it is offered under the same digest, fits its reference and is admitted by the
judge; it moves only on request. What the judge refuses is skipped and reported, and the next lower version is tried:
here a person reads the report and the difference, which is what a program that loads artifacts does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from steerguard.artifacts.fit import check_fit, fingerprint_entry
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.reference import ArtifactReference, parse_reference
from steerguard.errors import (
    ArtifactFormatError,
    IncompatibleModelError,
    LockMismatchError,
    MissingVariantError,
    TrustError,
)
from steerguard.models.facts import ModelFacts
from steerguard.registry.index import IndexEntry
from steerguard.registry.lockfile import (
    LockedArtifact,
    LockedPolicy,
    LockedRegistry,
    LockedVetting,
    Lockfile,
    lockfile_of,
)
from steerguard.registry.resolve import admitted_entries, store_for
from steerguard.registry.signed_index import HubEntry
from steerguard.registry.sources import Sources, locked_files
from steerguard.registry.store import ArtifactStore, Evidence, PinnedManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyToLock:
    """A policy, as far as a lock file is concerned."""

    name: str
    digest: str
    references: Mapping[str, tuple[str, ...]]
    """Every reference as it is written, with the types of which the artifact must be one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An artifact that the judge refused."""

    registry: str
    reference: str
    """`family/variant@version`."""
    error: TrustError


@dataclass(frozen=True, slots=True, kw_only=True)
class Locking:
    """A lock file, and what its reader should know."""

    lock: Lockfile
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    """Of the judge, about what is locked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    entry: IndexEntry
    pin: PinnedManifest
    evidence: Evidence


@dataclass(slots=True)
class _Chooser:
    """What is kept while references are gone through: each artifact is judged and read once."""

    sources: Sources
    models: Sequence[ModelFacts]
    skipped: dict[tuple[str, str], Skipped] = field(default_factory=dict)
    judged: dict[tuple[str, str], Evidence] = field(default_factory=dict)
    pins: dict[tuple[str, str], PinnedManifest] = field(default_factory=dict)

    def choices(
        self, store: ArtifactStore, ordered: Mapping[str, Sequence[IndexEntry]], types: tuple[str, ...]
    ) -> Iterator[_Choice]:
        """Yield the first artifact of each variant that the judge admits."""
        for entries in ordered.values():
            for entry in entries:
                evidence = self._evidence(store, entry)
                if evidence is not None:
                    yield _Choice(entry=entry, pin=self._pin(store, entry, types), evidence=evidence)
                    break

    def fitting(
        self, store: ArtifactStore, entries: Iterable[IndexEntry], types: tuple[str, ...], model: ModelFacts
    ) -> _Choice | None:
        """Return the first artifact that the judge admits and that fits the model."""
        for entry in entries:
            evidence = self._evidence(store, entry)
            if evidence is None:
                continue
            pin = self._pin(store, entry, types)
            if _fits(pin.manifest, model):
                return _Choice(entry=entry, pin=pin, evidence=evidence)
        return None

    def _evidence(self, store: ArtifactStore, entry: IndexEntry) -> Evidence | None:
        key = (store.name, entry.reference)
        if key in self.skipped:
            return None
        if key not in self.judged:
            try:
                self.judged[key] = self.sources.judge.admit(
                    entry, registry=store.name, attestations=store.attestations(entry)
                )
            except TrustError as error:
                self.skipped[key] = Skipped(registry=store.name, reference=entry.reference, error=error)
                return None
        return self.judged[key]

    def _pin(self, store: ArtifactStore, entry: IndexEntry, types: tuple[str, ...]) -> PinnedManifest:
        key = (store.name, entry.reference)
        if key not in self.pins:
            self.pins[key] = store.pin(entry)
        pin = self.pins[key]
        if pin.manifest.type not in types:
            raise ArtifactFormatError(
                f"Artifact `{pin.family}` is of another type than the policy uses it as.",
                expected=" or ".join(types),
                found=pin.manifest.type,
                where=pin.reference,
                next_step="Name an artifact of the expected type in the policy.",
            )
        return pin


def make_lock(
    policies: Sequence[PolicyToLock],
    sources: Sources,
    *,
    state: Callable[[ArtifactStore], LockedRegistry],
    models: Sequence[ModelFacts] = (),
    old: Lockfile | None = None,
    upgraded: Callable[[str], bool] | None = None,
) -> Locking:
    """Return a lock file for these policies.

    Args:
        policies: what is locked.
        sources: stores and judge; its own lock file is not asked.
        state: says what a registry showed: sequence and digest of its index, sequence of its revocations.
        models: the models that the policies are for; of each reference the artifact of each model is locked. Without
            any, every variant is.
        old: the lock file that there was; what it pins stays.
        upgraded: whether a family is to move to its highest version, and to take new variants; none is by default.

    Raises:
        ArtifactNotFoundError: a registry has no such family, variant or version.
        ArtifactFormatError: an artifact is of another type than the policy uses it as, or is malformed.
        MissingVariantError: no variant fits one of the models.
        LockMismatchError: a registry offers other bytes under a locked name.
        TrustError: the judge refused all that a reference admits; the refusal of the highest version.
        RegistryError: a remote registry does not answer.
    """
    chooser = _Chooser(sources, models)
    artifacts: dict[object, LockedArtifact] = {}
    registries: dict[str, LockedRegistry] = {}
    warnings: list[str] = []
    for text, types in _references(policies).items():
        reference = parse_reference(text)
        store = store_for(reference, sources.default, sources.remote)
        registries.setdefault(store.name, state(store))
        moves = old is None or (upgraded is not None and upgraded(reference.family))
        kept = {} if old is None or moves else _kept(old, reference, store)
        for choice in _chosen(chooser, store, reference, types, kept):
            locked = _locked(reference, store.name, choice)
            artifacts[locked.key] = locked
            warnings += [warning for warning in choice.evidence.warnings if warning not in warnings]
    locked_policies = {
        (one.name, one.digest): LockedPolicy(name=one.name, digest=one.digest, references=tuple(sorted(one.references)))
        for one in policies
    }
    return Locking(
        lock=lockfile_of(locked_policies.values(), registries.values(), artifacts.values()),
        skipped=tuple(chooser.skipped.values()),
        warnings=tuple(warnings),
    )


def differences(old: Lockfile, new: Lockfile) -> tuple[str, ...]:
    """Return what changed for whoever uses the lock file, one line each: policies, versions, digests and registries.

    States of registries, commits, signatures and vetting records are evidence and not what is used: they are left out.
    """
    lines: list[str] = []
    before, after = ({(one.name, one.digest) for one in lock.policies} for lock in (old, new))
    lines += [f"- policy {name} {digest}" for name, digest in sorted(before - after)]
    lines += [f"+ policy {name} {digest}" for name, digest in sorted(after - before)]
    was, now = ({_line(one) for one in lock.artifacts} for lock in (old, new))
    return (*lines, *(f"- {line}" for line in sorted(was - now)), *(f"+ {line}" for line in sorted(now - was)))


def _references(policies: Sequence[PolicyToLock]) -> dict[str, tuple[str, ...]]:
    """Return every reference of the policies in one form each, with the types that all of its users accept."""
    found: dict[str, tuple[str, ...]] = {}
    for policy in policies:
        for text, types in policy.references.items():
            normal = str(parse_reference(text))
            accepted = found.get(normal, types)
            found[normal] = tuple(kind for kind in types if kind in accepted)
    return found


def _kept(old: Lockfile, reference: ArtifactReference, store: ArtifactStore) -> dict[str, str]:
    """Return by `family/variant@version` the digest of what was locked for a reference in this registry.

    Raises:
        LockMismatchError: the registry offers other bytes under a locked name.
    """
    listed = {entry.reference: entry.digest for entry in store.entries()}
    kept: dict[str, str] = {}
    for locked in old.artifacts:
        if parse_reference(locked.reference) != reference or locked.registry != store.name:
            continue
        name = f"{locked.family}/{locked.variant}@{locked.version}"
        if listed.get(name, locked.digest) != locked.digest:
            raise LockMismatchError(
                f"The registry offers other bytes under the locked name {name}.",
                where=store.name,
                expected=locked.digest,
                found=listed[name],
                next_step="Find out who replaced it; artifacts never change. To accept it, use --upgrade.",
            )
        kept[name] = locked.digest
    return kept


def _chosen(
    chooser: _Chooser,
    store: ArtifactStore,
    reference: ArtifactReference,
    types: tuple[str, ...],
    kept: Mapping[str, str],
) -> list[_Choice]:
    admitted = admitted_entries(store, reference)
    # What is locked comes first; within both parts the highest versions do.
    ordered = sorted(admitted, key=lambda entry: entry.reference not in kept)
    if chooser.models:
        return [_for_model(chooser, store, reference, types, ordered, model) for model in chooser.models]
    variants: dict[str, list[IndexEntry]] = {}
    for entry in ordered:
        variants.setdefault(entry.variant, []).append(entry)
    locked = {entry.variant for entry in admitted if entry.reference in kept}
    chosen = list(
        chooser.choices(store, {name: of for name, of in variants.items() if not locked or name in locked}, types)
    )
    if not chosen and locked:
        chosen = list(chooser.choices(store, variants, types))
    if not chosen:
        raise chooser.skipped[(store.name, admitted[0].reference)].error
    return chosen


def _for_model(
    chooser: _Chooser,
    store: ArtifactStore,
    reference: ArtifactReference,
    types: tuple[str, ...],
    entries: Sequence[IndexEntry],
    model: ModelFacts,
) -> _Choice:
    choice = chooser.fitting(store, entries, types, model)
    if choice is not None:
        return choice
    for entry in entries:
        skipped = chooser.skipped.get((store.name, entry.reference))
        if skipped is not None:
            raise skipped.error
    raise MissingVariantError(
        f"No variant of `{reference.family}` fits the model {model.name or model.architecture}.",
        expected=f"a variant for {model.decoder} with {model.num_blocks} blocks of width {model.hidden_size}",
        found=", ".join(entry.reference for entry in entries),
        where=f"reference `{reference}`",
        next_step="Build one with steerguard build, or leave out --model to lock every variant.",
    )


def _fits(manifest: ArtifactManifest, model: ModelFacts) -> bool:
    try:
        check_fit(manifest, model)
        fingerprint_entry(manifest, model)
    except IncompatibleModelError:
        return False
    return True


def _locked(reference: ArtifactReference, registry: str, choice: _Choice) -> LockedArtifact:
    entry, evidence = choice.entry, choice.evidence
    vetting = None
    if evidence.vetting_level is not None and evidence.vetting_digest is not None:
        vetting = LockedVetting(level=evidence.vetting_level, sha256=evidence.vetting_digest.removeprefix("sha256:"))
    return LockedArtifact(
        reference=str(reference),
        registry=registry,
        family=entry.family,
        variant=entry.variant,
        version=entry.version,
        digest=entry.digest,
        repo=entry.repo if isinstance(entry, HubEntry) else None,
        commit=entry.commit if isinstance(entry, HubEntry) else None,
        files=locked_files(choice.pin.manifest),
        signed_by=tuple(sorted(evidence.signed_by)),
        vetting=vetting,
    )


def _line(locked: LockedArtifact) -> str:
    name = f"{locked.family}/{locked.variant}@{locked.version}"
    return f"{locked.reference}: {name} {locked.digest} ({locked.registry})"
