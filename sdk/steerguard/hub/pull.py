"""From a commit on the Hub into the store of pulled artifacts: sizes first, then bytes, every byte hashed, one rename."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from steerguard.artifacts.integrity import pinned_manifest
from steerguard.artifacts.manifest import ArtifactManifest
from steerguard.artifacts.paths import DIRECTORIES, MANIFEST, MAX_MANIFEST_BYTES
from steerguard.canonical import sha256_hex
from steerguard.errors import ArtifactError, ArtifactFormatError, ArtifactIntegrityError
from steerguard.hub.bounded import TransferStoppedError
from steerguard.hub.commit_files import artifact_tree, check_tree, is_attestation, is_same
from steerguard.registry.disk import disk_errors
from steerguard.registry.pinned_folder import check_file

if TYPE_CHECKING:
    from steerguard.hub.client import HubClient, RemoteFile
    from steerguard.registry.pulled import PulledArtifacts

PARALLEL_FILES: Final = 4
"""How many files of one artifact are downloaded at once."""


class Pullable(Protocol):
    """Names one artifact at one commit; a `HubEntry` does."""

    @property
    def reference(self) -> str:
        """`family/variant@version`."""
        ...

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of the manifest."""
        ...

    @property
    def repo(self) -> str:
        """`organisation/name`."""
        ...

    @property
    def commit(self) -> str:
        """Full commit id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PullTarget:
    """A `Pullable` from a lock file."""

    reference: str
    digest: str
    repo: str
    commit: str


def origin_of(entry: Pullable) -> str:
    """Return where an artifact's attestations come from."""
    return f"{entry.repo}@{entry.commit}"


def pull(client: HubClient, entry: Pullable, pulled: PulledArtifacts) -> None:
    """Bring an artifact into the store, unless it is there and sound.

    A second thread or process that asks for the same digest waits and then finds it there. What was downloaded before
    an interruption is used again. A damaged copy goes to quarantine once a sound one is here.

    Args:
        client: the Hub.
        entry: digest, repository and commit, from a verified index or a lock file.
        pulled: the store.

    Raises:
        ArtifactNotFoundError: the repository, the commit or a file does not exist.
        ArtifactIntegrityError: the commit holds something else than the digest pins.
        ArtifactFormatError: a name, size or document is not what the format allows.
        RegistryUnavailableError, RegistryAccessError: the Hub does not answer or refuses.
        ArtifactError: the operating system refuses, for example because the disk is full.
    """
    with pulled.one_at_a_time(entry.digest):
        if pulled.has(entry.digest) and pulled.sound(entry.digest):
            if origin_of(entry) not in pulled.origins(entry.digest):
                pulled.attest(entry.digest, read_remote_attestations(client, entry), origin=origin_of(entry))
            return
        work = pulled.partial(entry.digest)
        staged = download_commit(client, entry, work)
        pulled.put(entry.digest, staged, origin=origin_of(entry))
        shutil.rmtree(work, ignore_errors=True)


def fetch_attestations(client: HubClient, entry: Pullable, pulled: PulledArtifacts) -> None:
    """Fetch again what vouches for an artifact of the store, and put it beside what is there.

    Raises:
        As `read_remote_attestations` does, and ArtifactError when the operating system refuses.
    """
    with pulled.one_at_a_time(entry.digest):
        pulled.attest(entry.digest, read_remote_attestations(client, entry), origin=origin_of(entry))


def fetch_manifest(client: HubClient, entry: Pullable) -> ArtifactManifest:
    """Return the manifest of an artifact without downloading the rest.

    Raises:
        ArtifactIntegrityError: its bytes have another digest.
        ArtifactFormatError: it is malformed, or names another artifact.
        RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: the Hub does not answer or refuses.
    """
    content = client.read(entry.repo, entry.commit, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    return _manifest(content, entry)


def read_remote_attestations(client: HubClient, entry: Pullable) -> dict[str, bytes]:
    """Return the unverified files that vouch for an artifact, by path.

    Raises:
        ArtifactFormatError: a name, a size or a number of files is not what the format allows.
        ArtifactIntegrityError: the Hub sends another file than it lists.
        RegistryUnavailableError, RegistryAccessError, ArtifactNotFoundError: the Hub does not answer or refuses.
    """
    tree = artifact_tree(client, entry.repo, entry.commit)
    return {path: _attestation(client, entry, tree[path]) for path in sorted(tree) if is_attestation(path)}


def download_commit(client: HubClient, entry: Pullable, work: Path) -> Path:
    """Download the artifact at one commit into a folder below `work`, and return that folder.

    What lies in `work` from an earlier attempt is hashed and used again, or removed.

    Args:
        client: the Hub.
        entry: digest, repository and commit.
        work: a private folder.

    Raises:
        As `pull` does.
    """
    staged, parts = work / "artifact", work / "parts"
    where = f"{entry.repo} at {entry.commit}"
    tree = artifact_tree(client, entry.repo, entry.commit)
    content = client.read(entry.repo, entry.commit, MANIFEST, max_bytes=MAX_MANIFEST_BYTES)
    manifest = _manifest(content, entry)
    check_tree(manifest, tree, where=where)
    attestations = {path: _attestation(client, entry, tree[path]) for path in sorted(tree) if is_attestation(path)}
    with disk_errors("The download cannot be written.", where=work):
        _tidy(staged, keep=set(manifest.file_entries))
        if parts.is_symlink():
            parts.unlink()
        parts.mkdir(exist_ok=True)
        for folder in (staged, *(staged / name for name in DIRECTORIES)):
            folder.mkdir(exist_ok=True)
        (staged / MANIFEST).write_bytes(content)
        for path, envelope in attestations.items():
            (staged / path).write_bytes(envelope)
        wanted = [_Wanted(path, one.sha256, one.size) for path, one in manifest.file_entries.items()]
        missing = [one for one in wanted if not _is_there(staged / one.path, one)]
        _require_room(work, parts, missing)
    _download_all(client, entry, missing, staged=staged, parts=parts)
    with disk_errors("The download cannot be written.", where=work):
        shutil.rmtree(parts, ignore_errors=True)
        for name in DIRECTORIES:
            with suppress(OSError):
                (staged / name).rmdir()
    return staged


@dataclass(frozen=True, slots=True)
class _Wanted:
    path: str
    sha256: str
    size: int


def _download_all(client: HubClient, entry: Pullable, missing: Iterable[_Wanted], *, staged: Path, parts: Path) -> None:
    """Download files side by side; at the first failure, or an interrupt, the others stop too."""
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=PARALLEL_FILES, thread_name_prefix="steerguard-pull") as executor:
        running = [
            executor.submit(_download_one, client, entry, one, staged=staged, parts=parts, stop=stop)
            for one in sorted(missing, key=lambda one: -one.size)
        ]
        try:
            for done in as_completed(running):
                done.result()
        except BaseException:
            stop.set()
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _download_one(
    client: HubClient, entry: Pullable, wanted: _Wanted, *, staged: Path, parts: Path, stop: threading.Event
) -> None:
    if stop.is_set():
        raise TransferStoppedError
    part = parts / wanted.sha256
    with disk_errors("The download cannot be written.", where=part):
        resumed = part.is_file() and part.stat().st_size > 0
        try:
            if not _is_there(part, wanted, remove=False):
                client.download(entry.repo, entry.commit, wanted.path, part, size=wanted.size, stop=stop)
            check_file(part, sha256=wanted.sha256, size=wanted.size)
        except ArtifactIntegrityError as error:
            part.unlink(missing_ok=True)
            if not resumed:
                raise ArtifactIntegrityError(
                    "The registry sends another file than the digest pins.",
                    where=f"{entry.repo} at {entry.commit}: {wanted.path}",
                    expected=error.expected,
                    found=error.found,
                    next_step="Ask the registry's owner; nothing of the artifact was used.",
                ) from error
            # The beginning of an earlier attempt was damaged: once more, from nothing.
            _download_one(client, entry, wanted, staged=staged, parts=parts, stop=stop)
            return
        part.rename(staged / wanted.path)


def _attestation(client: HubClient, entry: Pullable, remote: RemoteFile) -> bytes:
    content = client.read(entry.repo, entry.commit, remote.path, max_bytes=remote.size)
    if not is_same(content, remote):
        raise ArtifactIntegrityError(
            "The registry sends another file than it lists.",
            where=f"{entry.repo} at {entry.commit}: {remote.path}",
            expected=f"{remote.size} bytes, {remote.sha256 or remote.git_sha1}",
            found=f"{len(content)} bytes, sha256 {sha256_hex(content)}",
            next_step="Try again; if it stays so, ask the registry's owner.",
        )
    return content


def _manifest(content: bytes, entry: Pullable) -> ArtifactManifest:
    where = f"{entry.repo} at {entry.commit}"
    manifest = pinned_manifest(content, entry.digest, where=where)
    if manifest.reference != entry.reference:
        raise ArtifactFormatError(
            "Index and manifest name different artifacts.",
            where=where,
            expected=entry.reference,
            found=manifest.reference,
        )
    return manifest


def _tidy(staged: Path, *, keep: set[str]) -> None:
    """Remove everything of an earlier attempt that is not a regular file of the manifest."""
    if staged.is_symlink() or not staged.is_dir():
        staged.unlink(missing_ok=True)
        return
    for found in sorted(staged.rglob("*"), reverse=True):
        if found.is_dir() and not found.is_symlink():
            with suppress(OSError):
                found.rmdir()
        elif found.is_symlink() or not found.is_file() or found.relative_to(staged).as_posix() not in keep:
            found.unlink()


def _is_there(file: Path, wanted: _Wanted, *, remove: bool = True) -> bool:
    """Return whether the whole file is here already; remove it where it is another one."""
    try:
        check_file(file, sha256=wanted.sha256, size=wanted.size)
    except FileNotFoundError:
        return False
    except (ArtifactIntegrityError, ArtifactFormatError):
        if remove:
            file.unlink()
        return False
    return True


def _require_room(work: Path, parts: Path, missing: Iterable[_Wanted]) -> None:
    """Refuse to begin what the disk cannot hold."""
    begun = {part.name: part.stat().st_size for part in parts.iterdir() if part.is_file()}
    needed = sum(max(0, one.size - begun.get(one.sha256, 0)) for one in missing)
    free = shutil.disk_usage(work).free
    if needed > free:
        raise ArtifactError(
            "The disk has no room for the artifact.",
            where=work,
            expected=f"{needed} bytes free",
            found=f"{free} bytes free",
            next_step="Free space, or set STEERGUARD_STORE to a folder on a larger disk, then try again.",
        )
