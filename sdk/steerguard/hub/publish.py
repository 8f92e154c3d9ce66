"""Publishing an artifact: one commit, read back, tagged, and then listed in the signed index.

Until the index lists it nobody can see it, so a crash at any point leaves nothing half-visible; running the same command
again finds what is done already and does the rest. Each step looks first and writes only what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from steerguard.artifacts.integrity import check_integrity
from steerguard.artifacts.manifest import ArtifactManifest, manifest_digest, parse_manifest
from steerguard.artifacts.paths import CARD, MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES, is_weights
from steerguard.errors import (
    ArtifactFormatError,
    ArtifactIntegrityError,
    ArtifactNotFoundError,
    PublishConflictError,
    PublishRefusedError,
)
from steerguard.hub.commit_files import IGNORED, MAX_COMMIT_FILES, is_attestation, is_same
from steerguard.hub.footing import Floor, read_for_change
from steerguard.hub.index_change import ATTEMPTS, VALID_FOR, Change, change_registry
from steerguard.hub.publish_checks import check_listing, check_publishable, default_repository
from steerguard.hub.pull import PullTarget, download_commit, read_remote_attestations
from steerguard.hub.read_index import RegistryState
from steerguard.registry.attestations import read_attestations
from steerguard.registry.folder import read_folder
from steerguard.registry.index import IndexEntry
from steerguard.registry.pinned_folder import check_pinned_folder
from steerguard.registry.signed_index import HubEntry
from steerguard.signing.keys import PublicKey, Signer

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient
    from steerguard.registry.pulled import PulledArtifacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """An artifact that the signed index lists."""

    entry: HubEntry
    manifest: ArtifactManifest
    tag: str
    """`v<version>`: a convenience for people; nothing in this package relies on it."""
    state: RegistryState
    """The registry after the publication."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishPlan:
    """What publishing would change; paths are sorted."""

    repo: str
    reference: str
    digest: str
    exists: bool
    """Whether the repository exists."""
    listed: bool
    """Whether the index lists this very artifact already."""
    added: tuple[str, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A checked artifact in a local folder."""

    folder: Path
    files: Mapping[str, bytes]
    entry: IndexEntry
    manifest: ArtifactManifest
    repo: str
    listed: HubEntry | None

    @property
    def tag(self) -> str:
        return f"v{self.entry.version}"


def plan_publication(
    client: HubClient,
    folder: Path,
    *,
    organisation: str,
    pulled: PulledArtifacts,
    index_keys: Iterable[PublicKey],
    release_keys: Iterable[PublicKey] | None = None,
    repo: str | None = None,
    new_registry: bool = False,
    at_least: Floor | None = None,
) -> PublishPlan:
    """Check everything that publishing checks, write nothing, and return what would change.

    Raises:
        As `publish` does.
    """
    keys = tuple(index_keys)
    state = read_for_change(
        client,
        organisation,
        keys=keys,
        pulled=pulled,
        new_registry=new_registry,
        at_least=at_least,
        is_done=lambda begun: _is_begun_with(begun, folder),
    )
    one = _candidate(folder, state, organisation, repo, keys if release_keys is None else tuple(release_keys))
    one = _with_listed_attestations(client, one)
    head = client.head_or_none(one.repo)
    tree = {} if head is None else client.tree(one.repo, head, max_files=MAX_COMMIT_FILES)
    if head is not None:
        _require_own(client, one, head, set(tree))
    there = {path: file for path, file in tree.items() if path not in IGNORED}
    return PublishPlan(
        repo=one.repo,
        reference=one.entry.reference,
        digest=one.entry.digest,
        exists=head is not None,
        listed=one.listed is not None,
        added=tuple(sorted(set(one.files) - set(there))),
        replaced=tuple(
            sorted(path for path in set(one.files) & set(there) if not is_same(one.files[path], there[path]))
        ),
        removed=tuple(sorted(set(there) - set(one.files))),
    )


def publish(
    client: HubClient,
    folder: Path,
    *,
    organisation: str,
    pulled: PulledArtifacts,
    signer: Signer,
    index_keys: Iterable[PublicKey] = (),
    release_keys: Iterable[PublicKey] | None = None,
    repo: str | None = None,
    private: bool | None = None,
    valid_for: timedelta = VALID_FOR,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    new_registry: bool = False,
    at_least: Floor | None = None,
) -> Published:
    """Publish the artifact in a folder; run again after an interruption, it finishes.

    Publishing a version again with more attestations makes a new commit that the index then lists; the tag stays.

    Args:
        client: the Hub.
        folder: the artifact, with a release signature and side-effect figures.
        organisation: whose registry.
        pulled: remembers the newest verified index, and lends room for the read-back.
        signer: signs the index.
        index_keys: who else may have signed the present index.
        release_keys: who may have signed the release; by default the signer and the index keys.
        repo: `organisation/name` of the model repository; by default `<family>_<variant>`.
        private: visibility of new repositories; None leaves it to the organisation's settings.
        valid_for: how long the new index is valid.
        now: the present, with a time zone.
        new_registry: this publication begins the registry.
        at_least: the newest sequences that the writer knows of; needed where `pulled` has never written.

    Raises:
        PublishRefusedError: not signed, without side-effect figures, revoked, or not accepted by the Hub.
        PublishConflictError: the version exists with other content, the repository holds something else, somebody else
            was quicker in every attempt, or the registry that is to be begun exists.
        ArtifactNotFoundError: there is no registry, and none is to be begun.
        ArtifactIntegrityError: the folder is damaged, or the Hub gives back other bytes than it took.
        ArtifactFormatError: the artifact is malformed.
        SignatureError, RollbackError: the present index cannot be relied on, or nothing is known of it.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
    """
    keys = tuple(dict.fromkeys((*index_keys, signer.public)))
    state = read_for_change(
        client,
        organisation,
        keys=keys,
        pulled=pulled,
        new_registry=new_registry,
        at_least=at_least,
        is_done=lambda begun: _is_begun_with(begun, folder),
    )
    one = _candidate(folder, state, organisation, repo, keys if release_keys is None else tuple(release_keys))
    client.create_repository(one.repo, private=private)
    one = _with_listed_attestations(client, one)
    commit = _committed(client, one)
    _read_back(client, one, commit, pulled)
    _tag(client, one, commit)
    entry = HubEntry(
        family=one.entry.family,
        variant=one.entry.variant,
        version=one.entry.version,
        digest=one.entry.digest,
        repo=one.repo,
        commit=commit,
        type=one.manifest.type,
        base_model=one.manifest.base.repo,
    )
    state = change_registry(
        client,
        organisation,
        lambda present: _listing(present, entry, one.listed),
        signer=signer,
        keys=keys,
        pulled=pulled,
        valid_for=valid_for,
        private=private,
        now=now,
        new_registry=new_registry,
        at_least=at_least,
    )
    return Published(entry=entry, manifest=one.manifest, tag=one.tag, state=state)


def _candidate(
    folder: Path, state: RegistryState, organisation: str, repo: str | None, release_keys: tuple[PublicKey, ...]
) -> _Candidate:
    files = read_folder(folder)
    digest = manifest_digest(files.get(MANIFEST, b""))
    manifest, _ = check_integrity(files, digest, where=str(folder))
    check_publishable(files, manifest, digest, release_keys=release_keys)
    if repo is not None and repo.partition("/")[0] != organisation:
        raise PublishRefusedError(
            "The repository lies outside the organisation.", expected=f"{organisation}/<name>", found=repo[:200]
        )
    entry = IndexEntry(family=manifest.family, variant=manifest.variant, version=manifest.version, digest=digest)
    listed = check_listing(state, entry, repo)
    chosen = repo or (listed.repo if listed else default_repository(organisation, entry.family, entry.variant))
    return _Candidate(folder=folder, files=files, entry=entry, manifest=manifest, repo=chosen, listed=listed)


def _is_begun_with(state: RegistryState, folder: Path) -> bool:
    """Return whether the index lists just the artifact of a folder, as after an interruption of its publication."""
    digest = manifest_digest(read_folder(folder).get(MANIFEST, b""))
    return state.index is not None and [entry.digest for entry in state.index.artifacts] == [digest]


def _with_listed_attestations(client: HubClient, one: _Candidate) -> _Candidate:
    """Keep what others have attested about the same artifact since it was published."""
    if one.listed is None:
        return one
    kept = read_remote_attestations(client, one.listed)
    files = {**kept, **one.files}
    count = sum(is_attestation(path) for path in files)
    if count > MAX_FILES:
        raise PublishRefusedError("The artifact has too many attestations.", expected=MAX_FILES, found=count)
    return _Candidate(one.folder, files, one.entry, one.manifest, one.repo, one.listed)


def _committed(client: HubClient, one: _Candidate) -> str:
    """Return a commit that holds exactly the artifact, after making it where there is none."""
    for _ in range(ATTEMPTS):
        tagged = client.tags(one.repo).get(one.tag)
        if tagged is not None:
            _require_same_manifest(client, one, tagged)
        head = client.head(one.repo)
        for known in dict.fromkeys((one.listed.commit if one.listed else None, tagged, head)):
            if known is not None and _holds(client, one, known):
                return known
        tree = client.tree(one.repo, head, max_files=MAX_COMMIT_FILES)
        _require_own(client, one, head, set(tree))
        try:
            return client.commit(
                one.repo,
                additions={
                    path: one.folder / path if is_weights(path) else bytes(content)
                    for path, content in one.files.items()
                    if path not in tree or not is_same(content, tree[path])
                },
                deletions=sorted(set(tree) - set(one.files) - IGNORED),
                parent=head,
                message=f"Publish {one.entry.reference}",
            )
        except PublishConflictError:
            continue
    raise PublishConflictError(
        f"Repository {one.repo} changed in every attempt.",
        where=f"{client.endpoint}/{one.repo}",
        expected=f"one of {ATTEMPTS} attempts without another writer",
        found="another writer each time",
        next_step="Run the command again; what was uploaded is used again.",
    )


def _holds(client: HubClient, one: _Candidate, commit: str) -> bool:
    tree = client.tree(one.repo, commit, max_files=MAX_COMMIT_FILES)
    if set(tree) - IGNORED != set(one.files):
        return False
    return all(is_same(content, tree[path]) for path, content in one.files.items())


def _require_own(client: HubClient, one: _Candidate, head: str, paths: set[str]) -> None:
    """Refuse to replace what is not an earlier version of the same family and variant."""
    foreign = paths - IGNORED - {CARD}
    if not foreign:
        return
    found = f"other files: {', '.join(sorted(foreign))[:200]}"
    if MANIFEST in foreign:
        try:
            content = client.read(one.repo, head, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
            manifest = parse_manifest(content)
            if (manifest.family, manifest.variant) == (one.entry.family, one.entry.variant):
                return
            found = manifest.reference
        except (ArtifactFormatError, ArtifactIntegrityError):
            found = "a manifest that cannot be read"
    raise PublishConflictError(
        f"Repository {one.repo} holds something else.",
        where=f"{client.endpoint}/{one.repo} at {head}",
        expected=f"an empty repository, or {one.entry.family}/{one.entry.variant}",
        found=found,
        next_step="Name another repository with --repo.",
    )


def _require_same_manifest(client: HubClient, one: _Candidate, tagged: str) -> None:
    """Refuse a version whose tag leads to another manifest: a tag is never moved."""
    try:
        content = client.read(one.repo, tagged, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
        found = manifest_digest(content)
    except (ArtifactNotFoundError, ArtifactIntegrityError):
        found = "no manifest"
    if found != one.entry.digest:
        raise PublishConflictError(
            f"The tag {one.tag} exists already, with other content.",
            where=f"{client.endpoint}/{one.repo} at {tagged}",
            expected=one.entry.digest,
            found=found,
            next_step="Published versions never change: give the new one a higher version.",
        )


def _read_back(client: HubClient, one: _Candidate, commit: str, pulled: PulledArtifacts) -> None:
    """Download the commit into a fresh folder and compare every byte."""
    target = PullTarget(reference=one.entry.reference, digest=one.entry.digest, repo=one.repo, commit=commit)
    with pulled.scratch() as fresh:
        staged = download_commit(client, target, fresh)
        check_pinned_folder(staged, one.entry.digest)
        found = read_attestations(staged)
    if found != {path: bytes(content) for path, content in one.files.items() if is_attestation(path)}:
        raise ArtifactIntegrityError(
            "The Hub gives back other attestations than it took.",
            where=f"{client.endpoint}/{one.repo} at {commit}",
            next_step="Run the command again; if it stays so, do not rely on this Hub.",
        )


def _tag(client: HubClient, one: _Candidate, commit: str) -> None:
    if one.tag in client.tags(one.repo):
        return
    try:
        client.tag(one.repo, one.tag, commit)
    except PublishConflictError:
        # Somebody else has just made it.
        tagged = client.tags(one.repo).get(one.tag)
        if tagged is None:
            raise
        _require_same_manifest(client, one, tagged)


def _listing(present: RegistryState, entry: HubEntry, seen: HubEntry | None) -> Change | None:
    """Return the index with the entry in it; None where it is there already."""
    there = check_listing(present, entry, entry.repo)
    first = present.revocations is None
    if there == entry and not first:
        return None
    if there is not None and there not in (entry, seen):
        raise PublishConflictError(
            f"Somebody else has published more attestations of {entry.reference} meanwhile.",
            where=present.registry,
            expected=f"commit {seen.commit if seen else 'none'} or {entry.commit}",
            found=f"commit {there.commit}",
            next_step="Run the command again: it keeps theirs and adds yours.",
        )
    listed = () if present.index is None else present.index.artifacts
    return Change(
        message=f"List {entry.reference}",
        entries=(*(one for one in listed if one.key != entry.key), entry),
        # A registry without a list of revocations counts as stale for its readers: begin one.
        artifacts=() if first else None,
        keys=() if first else None,
    )
