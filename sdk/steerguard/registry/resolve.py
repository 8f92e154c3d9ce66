"""From the reference in a policy to the entries of a registry that it admits. No manifest is read for that."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from steerguard.artifacts.reference import ArtifactReference
from steerguard.errors import ArtifactNotFoundError, SignatureError
from steerguard.registry.index import IndexEntry
from steerguard.registry.local import LocalDirectory
from steerguard.registry.store import ArtifactStore, PinnedManifest, highest_first

Remote = Callable[[str], ArtifactStore]
"""Makes the store of a remote registry from its name."""


def store_for(reference: ArtifactReference, default: ArtifactStore, remote: Remote | None = None) -> ArtifactStore:
    """Return the store that a reference points into.

    Args:
        reference: the parsed reference.
        default: the store of references that name no registry.
        remote: makes the store of a registry on the Hub; without it none can be read.

    Raises:
        SignatureError: the reference points to the Hub, and there is no `remote`: nobody says which keys to trust.
    """
    if reference.backend == "file" and reference.location is not None:
        return LocalDirectory(reference.location)
    if reference.backend == "hf" and reference.registry != default.name:
        if remote is None:
            raise SignatureError(
                "A registry on the Hub is read only under a trust policy, which names the keys of its index.",
                where=str(reference),
                expected=f"a trust policy that names {reference.registry}",
                found="none",
                next_step="Pass trust= (or --trust), or copy the artifact into a local registry.",
            )
        return remote(reference.registry)
    return default


def admitted_entries(store: ArtifactStore, reference: ArtifactReference) -> tuple[IndexEntry, ...]:
    """Return every entry of this very store that the reference admits, highest versions first; at least one.

    Raises:
        ArtifactNotFoundError: no such family, variant or version; names what there is.
        ArtifactFormatError: the index is malformed.
    """
    listed = store.entries()
    entries = highest_first(tuple(entry for entry in listed if entry.family == reference.family))
    if not entries:
        raise _missing("family", reference, reference.family, tuple(sorted({entry.family for entry in listed})))
    if reference.variant is not None:
        variants = tuple(sorted({entry.variant for entry in entries}))
        entries = tuple(entry for entry in entries if entry.variant == reference.variant)
        if not entries:
            raise _missing("variant", reference, reference.variant, variants)
    admitted = tuple(entry for entry in entries if reference.admits(entry.version))
    if not admitted:
        raise ArtifactNotFoundError(
            f"No version of {reference.family} lies in the range {reference.range}.",
            where=str(reference),
            expected=reference.range,
            found=", ".join(f"{entry.variant} {entry.version}" for entry in entries),
            next_step="Widen the range in the policy, or add such a version to the registry.",
        )
    return admitted


def pinned_variants(
    store: ArtifactStore, reference: ArtifactReference, remote: Remote | None = None
) -> tuple[PinnedManifest, ...]:
    """Return every variant that the reference admits, highest versions first; at least one. None is judged.

    Args:
        store: the default store; a `file://` or `hf://` reference is looked up in its own registry instead.
        reference: the parsed reference.
        remote: as for `store_for`.

    Raises:
        SignatureError: the reference points to the Hub, and there is no `remote`.
        ArtifactNotFoundError: no such family, variant or version; names what there is.
        ArtifactIntegrityError: a manifest has not the digest that the index pins.
        ArtifactFormatError: the index or a manifest is malformed.
    """
    found_in = store_for(reference, store, remote)
    return tuple(found_in.pin(entry) for entry in admitted_entries(found_in, reference))


def _missing(what: str, reference: ArtifactReference, name: str, known: tuple[str, ...]) -> ArtifactNotFoundError:
    near = difflib.get_close_matches(name, known, n=1)
    return ArtifactNotFoundError(
        f"The registry has no {what} {name!r}.",
        where=str(reference),
        expected=", ".join(known) or "an empty registry has none",
        found=name,
        next_step=f"Did you mean {near[0]!r}?" if near else "Name one of these, or add the artifact to the registry.",
    )
