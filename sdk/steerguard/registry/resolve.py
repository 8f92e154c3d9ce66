"""From the reference in a policy to the pinned manifests that it admits."""

from __future__ import annotations

import difflib

from steerguard.artifacts.reference import ArtifactReference
from steerguard.errors import ArtifactNotFoundError, ArtifactReferenceError
from steerguard.registry.local import LocalDirectory
from steerguard.registry.store import ArtifactStore, PinnedManifest


def store_for(reference: ArtifactReference, default: ArtifactStore) -> ArtifactStore:
    """Return the store that a reference points into.

    Raises:
        ArtifactReferenceError: the reference points to the Hub.
    """
    if reference.backend == "hf":
        raise ArtifactReferenceError(
            "The Hub backend is not supported in this version.",
            found=str(reference),
            next_step="Copy the artifact into a local registry and refer to it by file://.",
        )
    if reference.backend == "file" and reference.location is not None:
        return LocalDirectory(reference.location)
    return default


def pinned_variants(store: ArtifactStore, reference: ArtifactReference) -> tuple[PinnedManifest, ...]:
    """Return every variant that the reference admits, highest versions first; at least one.

    Args:
        store: the default store; a `file://` reference is looked up in its own registry instead.
        reference: the parsed reference.

    Raises:
        ArtifactReferenceError: the reference points to the Hub.
        ArtifactNotFoundError: no such family, variant or version; names what there is.
        ArtifactIntegrityError: a manifest has not the digest that the index pins.
        ArtifactFormatError: the index or a manifest is malformed.
    """
    found_in = store_for(reference, store)
    pins = found_in.pinned(reference.family)
    if not pins:
        families = found_in.families()
        raise _missing("family", reference, reference.family, families)
    if reference.variant is not None:
        variants = tuple(sorted({pin.variant for pin in pins}))
        pins = tuple(pin for pin in pins if pin.variant == reference.variant)
        if not pins:
            raise _missing("variant", reference, reference.variant, variants)
    admitted = tuple(pin for pin in pins if reference.admits(pin.version))
    if not admitted:
        raise ArtifactNotFoundError(
            f"No version of {reference.family} lies in the range {reference.range}.",
            where=str(reference),
            expected=reference.range,
            found=", ".join(f"{pin.variant} {pin.version}" for pin in pins),
            next_step="Widen the range in the policy, or add such a version to the registry.",
        )
    return admitted


def _missing(what: str, reference: ArtifactReference, name: str, known: tuple[str, ...]) -> ArtifactNotFoundError:
    near = difflib.get_close_matches(name, known, n=1)
    return ArtifactNotFoundError(
        f"The registry has no {what} {name!r}.",
        where=str(reference),
        expected=", ".join(known) or "an empty registry has none",
        found=name,
        next_step=f"Did you mean {near[0]!r}?" if near else "Name one of these, or add the artifact to the registry.",
    )
