"""Where the artifacts of one plan may come from: registries, a lock file, what was pulled, and who is trusted.

Every way ends in the same order: the entry is chosen, its attestations are judged by digest, and only then its manifest
is parsed. With a lock file nothing else than what it lists exists, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from steerguard.artifacts.reference import ArtifactReference, parse_reference
from steerguard.errors import ArtifactNotFoundError, LockMismatchError, TrustError, UnlockedArtifactError
from steerguard.registry.index import IndexEntry
from steerguard.registry.local import LocalDirectory, embedded_registry
from steerguard.registry.lockfile import LockedArtifact, LockedFile, Lockfile
from steerguard.registry.names import EMBEDDED, is_hub
from steerguard.registry.resolve import Remote, admitted_entries, store_for
from steerguard.registry.store import (
    LOCAL_SCHEME,
    ArtifactStore,
    Evidence,
    Judge,
    PinnedManifest,
    PinnedOnly,
    highest_first,
)

if TYPE_CHECKING:
    from steerguard.artifacts.manifest import ArtifactManifest
    from steerguard.registry.pulled import PulledArtifacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One artifact that a reference admits and that the judge admitted."""

    pin: PinnedManifest
    store: ArtifactStore
    """Where its bytes are read from."""
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything that decides which artifacts a reference stands for."""

    default: ArtifactStore
    """The store of references that name no registry."""
    lock: Lockfile | None = None
    pulled: PulledArtifacts | None = None
    """Where artifacts of remote registries lie on this machine; needed where the lock lists some."""
    judge: Judge = field(default_factory=PinnedOnly)
    remote: Remote | None = None
    """Makes the store of a remote registry; used without a lock only."""
    enforce: bool = True
    """Whether remote artifacts must be locked: they must in mode `enforce`."""

    @classmethod
    def of(cls, store: ArtifactStore | Sources) -> Sources:
        """Return sources that consist of one store, or the sources themselves."""
        return store if isinstance(store, Sources) else cls(default=store)

    def candidates(self, reference: ArtifactReference) -> Iterator[Candidate]:
        """Yield what the reference admits, highest version first; a manifest is read when its turn comes.

        Where the judge refuses an artifact, lower versions of that variant are not offered instead of it: that would
        let whoever strips a signature choose the version. Other variants are, with a warning. When the caller asks for
        more than there is, the first refusal is raised.

        Raises:
            ArtifactNotFoundError: no such family, variant or version; or a locked artifact was not pulled.
            ArtifactIntegrityError: a manifest has not the digest that pins it.
            ArtifactFormatError: an index, an attestation's name or a manifest is malformed.
            TrustError: the judge refused, and nothing else was left.
            UnlockedArtifactError: no lock file pins the reference, and the registry is remote or a lock file is given.
            LockMismatchError: the lock file contradicts the reference or the registry.
        """
        refused: dict[str, TrustError] = {}
        for entry, store, registry in self._offered(reference):
            if entry.variant in refused:
                continue
            attestations = store.attestations(entry)
            try:
                evidence = self.judge.admit(entry, registry=registry, attestations=attestations)
            except TrustError as error:
                refused[entry.variant] = error
                continue
            warnings = tuple(f"{error.code}: {error.summary}" for error in refused.values())
            yield Candidate(
                pin=self._pin(entry, store, reference),
                store=store,
                evidence=replace(evidence, warnings=(*evidence.warnings, *warnings)),
            )
        for refusal in refused.values():
            raise refusal

    def _offered(self, reference: ArtifactReference) -> Iterator[tuple[IndexEntry, ArtifactStore, str]]:
        """Yield entries with the store that holds them and the name of the registry that answers for them."""
        if self.lock is not None:
            for locked in locked_for(self.lock, reference):
                yield _entry(locked), self._holder(locked, reference), locked.registry
            return
        named = self.default.name if reference.backend == "default" else reference.registry
        if is_hub(named) and self.enforce:
            raise UnlockedArtifactError(
                f"No lock file pins `{reference}`, and its registry is remote.",
                where=named,
                expected="a lock file, since the mode is enforce",
                found="none",
                next_step="Run steerguard lock and steerguard sync, then pass lock= (or --lock).",
            )
        store = store_for(reference, self.default, self.remote)
        for entry in admitted_entries(store, reference):
            yield entry, store, store.name

    def _holder(self, locked: LockedArtifact, reference: ArtifactReference) -> ArtifactStore:
        """Return the store on this machine that must hold a locked artifact."""
        if reference.backend != "default" and locked.registry != reference.registry:
            raise _misfit(reference, expected=reference.registry, found=locked.registry)
        if is_hub(locked.registry):
            if self.pulled is None or not self.pulled.has(locked.digest):
                raise ArtifactNotFoundError(
                    f"The locked artifact {locked.family}/{locked.variant}@{locked.version} is not on this machine.",
                    where=locked.registry,
                    expected=locked.digest,
                    found="nothing in the local store" if self.pulled is not None else "no local store was given",
                    next_step="Run steerguard sync.",
                )
            return self.pulled
        if locked.registry == self.default.name:
            return self._listing(self.default, locked)
        if reference.backend == "default" and self.default.name != EMBEDDED:
            raise _misfit(reference, expected=locked.registry, found=self.default.name)
        store = local_store(locked.registry)
        if store.name != locked.registry:
            # The judge goes by the name, and `..` in it would lead out of the folders that a trust policy names.
            raise LockMismatchError(
                "The lock file gives a registry another name than its own.",
                where=f"reference `{reference}`",
                expected=store.name,
                found=locked.registry,
                next_step="The lock file was edited: write it again with steerguard lock.",
            )
        return self._listing(store, locked)

    def _listing(self, store: ArtifactStore, locked: LockedArtifact) -> ArtifactStore:
        """Return the store after a look at its index: the locked name must have the locked digest."""
        entry = _entry(locked)
        found = next((listed.digest for listed in store.entries() if listed.key == entry.key), None)
        if found is None:
            raise ArtifactNotFoundError(
                f"The registry does not have the locked artifact {entry.reference}.",
                where=locked.registry,
                expected=locked.digest,
                found="no such entry",
                next_step="Restore the artifact, or run steerguard lock.",
            )
        if found != locked.digest:
            raise LockMismatchError(
                f"The registry holds other bytes under the locked name {entry.reference}.",
                where=locked.registry,
                expected=locked.digest,
                found=found,
                next_step="Find out who replaced the artifact; if the change is intended, run steerguard lock.",
            )
        return store

    def _pin(self, entry: IndexEntry, store: ArtifactStore, reference: ArtifactReference) -> PinnedManifest:
        pin = store.pin(entry)
        if self.lock is None:
            return pin
        listed = locked_files(pin.manifest)
        for locked in locked_for(self.lock, reference):
            if locked.digest == entry.digest and locked.files != listed:
                raise LockMismatchError(
                    f"The lock file lists other files for {entry.reference} than its manifest.",
                    where=f"reference `{reference}`",
                    expected="the files of the manifest with this digest",
                    found=", ".join(one.path for one in locked.files) or "none",
                    next_step="The lock file was edited: write it again with steerguard lock.",
                )
        return pin


def locked_for(lock: Lockfile, reference: ArtifactReference) -> Sequence[LockedArtifact]:
    """Return what a lock file pins for a reference, highest version first; at least one.

    Raises:
        UnlockedArtifactError: the lock file lacks the reference.
        LockMismatchError: it pins a family, variant or version that the reference does not admit.
        ArtifactReferenceError: a reference in the lock file is none.
    """
    pinned = [locked for locked in lock.artifacts if parse_reference(locked.reference) == reference]
    if not pinned:
        raise UnlockedArtifactError(
            f"The lock file does not have the reference `{reference}`.",
            expected=str(reference),
            found=", ".join(sorted({locked.reference for locked in lock.artifacts})) or "no reference at all",
            next_step="Run steerguard lock with every policy that is used, those of single requests too.",
        )
    for locked in pinned:
        fits = locked.family == reference.family and reference.variant in (None, locked.variant)
        if not fits or not reference.admits(locked.version):
            raise _misfit(
                reference, expected=str(reference), found=f"{locked.family}/{locked.variant}@{locked.version}"
            )
    order = [entry.key for entry in highest_first(tuple(_entry(locked) for locked in pinned))]
    return sorted(pinned, key=lambda locked: order.index(_entry(locked).key))


def locked_files(manifest: ArtifactManifest) -> tuple[LockedFile, ...]:
    """Return the files of a manifest as a lock file lists them, sorted by path; the digest pins the manifest itself."""
    files = (LockedFile(path=one.path, sha256=one.sha256, size=one.size) for one in manifest.files)
    return tuple(sorted(files, key=lambda file: file.path))


def local_store(registry: str) -> LocalDirectory:
    """Return the store of a local registry from its name, `embedded` or `file:///absolute/path`.

    Raises:
        ArtifactNotFoundError: the name is not that of a local registry.
    """
    if registry == EMBEDDED:
        return embedded_registry()
    return LocalDirectory(local_folder(registry))


def local_folder(registry: str) -> Path:
    """Return the folder of a registry from its name `file:///absolute/path`.

    Raises:
        ArtifactNotFoundError: the name is not that of a folder.
    """
    folder = unquote(registry.removeprefix(LOCAL_SCHEME))
    if not registry.startswith(f"{LOCAL_SCHEME}/") or "\0" in folder:
        raise ArtifactNotFoundError(
            "There is no such local registry.",
            expected=f"{EMBEDDED} or file:///absolute/path",
            found=registry[:200],
            next_step="Correct the name of the registry.",
        )
    return Path(folder)


def _entry(locked: LockedArtifact) -> IndexEntry:
    return IndexEntry(family=locked.family, variant=locked.variant, version=locked.version, digest=locked.digest)


def _misfit(reference: ArtifactReference, *, expected: str, found: str) -> LockMismatchError:
    return LockMismatchError(
        f"The lock file pins something else than `{reference}` asks for.",
        where=f"reference `{reference}`",
        expected=expected,
        found=found,
        next_step="Run steerguard lock --check to see the difference, then steerguard lock.",
    )
