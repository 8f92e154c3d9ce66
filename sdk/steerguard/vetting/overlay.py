"""A registry in which the vetted artifact lies on top of another one, so that a policy finds it beside its other parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steerguard.artifacts.integrity import pinned_manifest
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import MANIFEST
from steerguard.errors import EvaluationError
from steerguard.plan.plan import Plan
from steerguard.registry.index import IndexEntry
from steerguard.registry.store import ArtifactStore, PinnedManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class VettedArtifact:
    """The files of the artifact that is vetted; nothing of them is trusted beyond the digest of the manifest."""

    files: Mapping[str, bytes]
    manifest: ArtifactManifest
    digest: str
    """`sha256:<hex>` over the manifest's bytes."""

    @property
    def entry(self) -> IndexEntry:
        """What an index would say of it."""
        one = self.manifest
        return IndexEntry(family=one.family, variant=one.variant, version=one.version, digest=self.digest)


class Overlay:
    """An `ArtifactStore`: one artifact over a base registry; it replaces an artifact of the same name and version.

    Args:
        base: where everything else comes from.
        vetted: the artifact on top.
    """

    def __init__(self, base: ArtifactStore, vetted: VettedArtifact) -> None:
        self._base = base
        self._vetted = vetted

    @property
    def name(self) -> str:
        """Name of the base registry: what admits its artifacts admits the one on top."""
        return self._base.name

    def entries(self) -> tuple[IndexEntry, ...]:
        """Return the base's entries and that of the vetted artifact, sorted; the errors are those of the base."""
        entry = self._vetted.entry
        others = tuple(one for one in self._base.entries() if one.key != entry.key)
        return tuple(sorted((*others, entry), key=lambda one: one.key))

    def attestations(self, entry: IndexEntry) -> Mapping[str, bytes]:
        """Return the files that vouch for an artifact; the errors are those of the base."""
        if entry.key != self._vetted.entry.key:
            return self._base.attestations(entry)
        return {path: self._vetted.files[path] for path in self._vetted.files if path.startswith("attestations/")}

    def pin(self, entry: IndexEntry) -> PinnedManifest:
        """Return the manifest of one entry; the errors are those of the base.

        Raises:
            ArtifactIntegrityError: the vetted artifact has not the digest of the entry.
        """
        if entry.key != self._vetted.entry.key:
            return self._base.pin(entry)
        manifest = pinned_manifest(self._vetted.files.get(MANIFEST), entry.digest, where=entry.reference)
        return PinnedManifest(
            family=entry.family,
            variant=entry.variant,
            version=entry.version,
            digest=entry.digest,
            manifest=manifest,
        )

    def read(self, pin: PinnedManifest) -> Mapping[str, bytes]:
        """Return the content of every file of one artifact, unverified; the errors are those of the base."""
        return self._vetted.files if pin.digest == self._vetted.digest else self._base.read(pin)


def require_used(plan: Plan, digest: str, reference: str) -> None:
    """Refuse a plan that does not use the vetted artifact: figures of another one would be said of it.

    Raises:
        EvaluationError: no artifact of the plan has this digest.
    """
    used = {artifact.reference: artifact.digest for artifact in plan.artifacts}
    if digest not in used.values():
        raise EvaluationError(
            "The policy of the suite does not use the artifact that is vetted.",
            where=reference,
            expected=digest,
            found=", ".join(f"{name} {found}" for name, found in sorted(used.items())) or "no artifact at all",
            next_step="Write the mark $ARTIFACT where the policy of the suite names its artifact.",
        )
