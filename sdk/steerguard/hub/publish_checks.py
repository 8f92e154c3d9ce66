"""What must hold before anything of an artifact is written to the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.publishable import require_publishable
from steerguard.artifacts.release import is_release, parse_release
from steerguard.errors import ArtifactError, PublishConflictError, PublishRefusedError, TrustError
from steerguard.hub.commit_files import is_attestation
from steerguard.hub.read_index import RegistryState
from steerguard.registry.attestations import MAX_ATTESTATION_BYTES
from steerguard.registry.index import IndexEntry
from steerguard.registry.signed_index import HubEntry
from steerguard.signing.dsse import verified_payload
from steerguard.signing.keys import PublicKey
from steerguard.signing.statement import STATEMENT

_MAX_NAME: Final = 96


def check_publishable(
    files: Mapping[str, bytes], manifest: ArtifactManifest, digest: str, *, release_keys: Iterable[PublicKey]
) -> None:
    """Refuse an artifact without side-effect figures or without a valid release signature.

    Args:
        files: content by path, checked against the manifest.
        manifest: what the artifact is.
        digest: digest of the manifest's bytes.
        release_keys: a release signature must be by one of them.

    Raises:
        PublishRefusedError: says what is missing.
    """
    require_publishable(files)
    large = sorted(path for path in files if is_attestation(path) and len(files[path]) > MAX_ATTESTATION_BYTES)
    if large:
        raise PublishRefusedError(
            "An attestation is too large.", where=", ".join(large), expected=f"at most {MAX_ATTESTATION_BYTES} bytes"
        )
    keys, problems = tuple(release_keys), list[str]()
    for path in sorted(path for path in files if is_release(path)):
        try:
            payload, _ = verified_payload(bytes(files[path]), STATEMENT, keys, where=path)
            if parse_release(payload, where=path).digest == digest:
                return
            problems.append(f"{path}: signs another artifact")
        except (TrustError, ArtifactError) as error:
            problems.append(f"{path}: {error.summary}")
    raise PublishRefusedError(
        f"Artifact {manifest.reference} has no valid release signature.",
        expected=f"a signature over {digest} by one of: {', '.join(key.id for key in keys)}",
        found="; ".join(problems)[:500] or "no release signature",
        next_step="Run `steerguard registry sign` with the publisher's key.",
    )


def check_listing(state: RegistryState, entry: IndexEntry, repo: str | None) -> HubEntry | None:
    """Return the entry of the same version in the index, if it is this artifact.

    Args:
        state: the present state of the registry.
        entry: what shall be published.
        repo: the repository that the caller named, if any.

    Raises:
        PublishConflictError: the version is listed with other content or in another repository.
        PublishRefusedError: the artifact is revoked.
    """
    revoked = None if state.revocations is None else state.revocations.revoked_as(entry)
    if revoked is not None and revoked.action == "refuse":
        raise PublishRefusedError(
            f"Artifact {entry.reference} is revoked.", where=state.registry, found=f"{revoked.reason}: {revoked.note}"
        )
    listed = () if state.index is None else state.index.artifacts
    for one in listed:
        if one.key != entry.key:
            continue
        if one.digest != entry.digest:
            raise PublishConflictError(
                f"Version {entry.reference} is published already, with other content.",
                where=state.registry,
                expected=one.digest,
                found=entry.digest,
                next_step="Published versions never change: give the new one a higher version.",
            )
        if repo not in (None, one.repo):
            raise PublishConflictError(
                f"Version {entry.reference} is published in another repository.",
                where=state.registry,
                expected=one.repo,
                found=repo,
                next_step="Leave the repository out: the index knows it.",
            )
        return one
    return None


def default_repository(organisation: str, family: str, variant: str) -> str:
    """Return the model repository of one family and variant; no other pair of names has the same one.

    Raises:
        PublishRefusedError: the name would be too long for the Hub.
    """
    # Names of families and variants have no underscore.
    name = f"{family}_{variant}"
    if len(name) > _MAX_NAME:
        raise PublishRefusedError(
            "The name of the repository would be too long.",
            expected=f"at most {_MAX_NAME} characters",
            found=f"{len(name)}: {name}",
            next_step="Name a repository with --repo.",
        )
    return f"{organisation}/{name}"
